// Durable files as JavaScript sees them (src/native/binding.ts).
#pragma once

#include <napi.h>

namespace vu::bind {

// Adds replaceFile and syncDirectory.
void registerFile(Napi::Env env, Napi::Object exports);

}  // namespace vu::bind
