// Namespaces, TAPs, links and lock files as JavaScript sees them (src/native/binding.ts).
#pragma once

#include <napi.h>

namespace vu::bind {

// Adds openNetns, ownNetns, checkNetns, openTap, setupPodLink, inspectPodLink, deletePodLink, watchPodLink and
// tryLockFile.
void registerNetns(Napi::Env env, Napi::Object exports);

}  // namespace vu::bind
