// Child processes as JavaScript sees them (src/native/binding.ts).
#pragma once

#include <napi.h>

namespace vu::bind {

// Adds runChild.
void registerChild(Napi::Env env, Napi::Object exports);

}  // namespace vu::bind
