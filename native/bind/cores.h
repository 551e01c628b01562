// Where threads run, as JavaScript sees it (src/native/binding.ts).
#pragma once

#include <napi.h>

namespace vu::bind {

// Adds keepOffCores.
void registerCores(Napi::Env env, Napi::Object exports);

}  // namespace vu::bind
