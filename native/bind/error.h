// JavaScript errors of the addon: made here and nowhere else.
#pragma once

#include <napi.h>

#include "../core/result.h"

namespace vu::bind {

// An Error as NativeFault describes it: code (errno name), errno, syscall, and path where one is given. The explanation
// (what the kernel said beyond the number) ends the message.
napi_value faultError(napi_env env, const Fault& fault, const char* path = nullptr, const char* explanation = nullptr);
void throwFault(napi_env env, const Fault& fault, const char* path = nullptr);
// TypeError: a closed object, a wrong type. Does nothing when an exception is pending already.
void throwMisuse(napi_env env, const char* message);

}  // namespace vu::bind
