// Sockets with descriptors as JavaScript sees them (src/native/binding.ts).
#pragma once

#include <napi.h>

namespace vu::bind {

// Adds listenUnix and connectUnix. The environment's event port must be set.
void registerSockets(Napi::Env env, Napi::Object exports);

}  // namespace vu::bind
