#include "error.h"

#include <cstring>
#include <string>

#include "convert.h"

namespace vu::bind {

napi_value faultError(napi_env env, const Fault& fault, const char* path, const char* explanation) {
  const char* name = ::strerrorname_np(fault.errnum);
  const char* description = ::strerrordesc_np(fault.errnum);
  const std::string code = name != nullptr ? name : "E" + std::to_string(fault.errnum);
  std::string message = code + ": " + (description != nullptr ? description : "unknown error") + ", " + fault.operation;
  if (path != nullptr) message += std::string(" '") + path + "'";
  if (explanation != nullptr) message += std::string(": ") + explanation;
  napi_value error = nullptr;
  napi_create_error(env, text(env, code), text(env, message), &error);
  napi_value number = nullptr;
  napi_create_int32(env, fault.errnum, &number);
  napi_set_named_property(env, error, "errno", number);
  napi_set_named_property(env, error, "syscall", text(env, fault.operation));
  if (path != nullptr) napi_set_named_property(env, error, "path", text(env, path));
  return error;
}

void throwFault(napi_env env, const Fault& fault, const char* path) { napi_throw(env, faultError(env, fault, path)); }

void throwMisuse(napi_env env, const char* message) {
  bool pending = false;
  if (napi_is_exception_pending(env, &pending) == napi_ok && pending) return;
  napi_throw_type_error(env, nullptr, message);
}

}  // namespace vu::bind
