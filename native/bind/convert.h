// JavaScript values to C++ and back. A value of the wrong type throws a TypeError that names `what`, and gives nullopt.
#pragma once

#include <napi.h>

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "error.h"

namespace vu::bind {

inline std::nullopt_t wrongType(napi_env env, const char* what, const char* wanted) {
  throwMisuse(env, (std::string(what) + ": expected " + wanted).c_str());
  return std::nullopt;
}

inline std::optional<napi_value> property(napi_env env, napi_value object, const char* name) {
  napi_valuetype type = napi_undefined;
  if (object == nullptr || napi_typeof(env, object, &type) != napi_ok || type != napi_object) {
    return wrongType(env, name, "to be a property of an object");
  }
  napi_value value = nullptr;
  if (napi_get_named_property(env, object, name, &value) != napi_ok) return wrongType(env, name, "a readable property");
  return value;
}

// A whole number in [0, 2^32).
inline std::optional<uint32_t> toUint32(napi_env env, napi_value value, const char* what) {
  double number = -1;
  if (value == nullptr || napi_get_value_double(env, value, &number) != napi_ok || !(number >= 0) ||
      number > 4294967295.0 || number != static_cast<double>(static_cast<uint32_t>(number))) {
    return wrongType(env, what, "a whole number in 0..4294967295");
  }
  return static_cast<uint32_t>(number);
}

inline std::optional<uint64_t> toUint64(napi_env env, napi_value value, const char* what) {
  uint64_t number = 0;
  bool lossless = false;
  if (value == nullptr || napi_get_value_bigint_uint64(env, value, &number, &lossless) != napi_ok || !lossless) {
    return wrongType(env, what, "a bigint in 0..2^64-1");
  }
  return number;
}

inline std::optional<bool> toBool(napi_env env, napi_value value, const char* what) {
  bool result = false;
  if (value == nullptr || napi_get_value_bool(env, value, &result) != napi_ok) return wrongType(env, what, "a boolean");
  return result;
}

// UTF-8 without a NUL inside: what goes into a system call as a C string.
inline std::optional<std::string> toText(napi_env env, napi_value value, const char* what) {
  size_t length = 0;
  if (value == nullptr || napi_get_value_string_utf8(env, value, nullptr, 0, &length) != napi_ok) {
    return wrongType(env, what, "a string");
  }
  std::string result(length, '\0');
  napi_get_value_string_utf8(env, value, result.data(), length + 1, &length);
  if (result.find('\0') != std::string::npos) return wrongType(env, what, "a string without NUL");
  return result;
}

inline std::optional<std::vector<napi_value>> toArray(napi_env env, napi_value value, const char* what) {
  bool isArray = false;
  uint32_t length = 0;
  if (value == nullptr || napi_is_array(env, value, &isArray) != napi_ok || !isArray ||
      napi_get_array_length(env, value, &length) != napi_ok || length > 65536) {
    return wrongType(env, what, "an array");
  }
  std::vector<napi_value> items(length);
  for (uint32_t i = 0; i < length; ++i) {
    if (napi_get_element(env, value, i, &items[i]) != napi_ok) return wrongType(env, what, "readable elements");
  }
  return items;
}

// The bytes of a Uint8Array, borrowed until JavaScript runs again.
inline std::optional<std::span<const uint8_t>> toBytes(napi_env env, napi_value value, const char* what) {
  napi_typedarray_type type = napi_int8_array;
  size_t length = 0;
  void* data = nullptr;
  if (value == nullptr || napi_get_typedarray_info(env, value, &type, &length, &data, nullptr, nullptr) != napi_ok ||
      type != napi_uint8_array) {
    return wrongType(env, what, "a Uint8Array");
  }
  return std::span(static_cast<const uint8_t*>(data), length);
}

inline std::optional<uint32_t> uint32Property(napi_env env, napi_value object, const char* name) {
  const auto value = property(env, object, name);
  return value ? toUint32(env, *value, name) : std::nullopt;
}
inline std::optional<bool> boolProperty(napi_env env, napi_value object, const char* name) {
  const auto value = property(env, object, name);
  return value ? toBool(env, *value, name) : std::nullopt;
}
inline std::optional<std::string> textProperty(napi_env env, napi_value object, const char* name) {
  const auto value = property(env, object, name);
  return value ? toText(env, *value, name) : std::nullopt;
}

inline std::optional<std::span<const uint8_t>> bytesProperty(napi_env env, napi_value object, const char* name) {
  const auto value = property(env, object, name);
  return value ? toBytes(env, *value, name) : std::nullopt;
}

inline std::optional<napi_value> handlerProperty(napi_env env, napi_value object, const char* name) {
  const auto value = property(env, object, name);
  if (!value) return std::nullopt;
  napi_valuetype type = napi_undefined;
  if (napi_typeof(env, *value, &type) != napi_ok || type != napi_function) return wrongType(env, name, "a function");
  return value;
}

inline napi_value bigint(napi_env env, uint64_t value) {
  napi_value made = nullptr;
  napi_create_bigint_uint64(env, value, &made);
  return made;
}
inline napi_value number(napi_env env, uint32_t value) {
  napi_value made = nullptr;
  napi_create_uint32(env, value, &made);
  return made;
}
inline napi_value text(napi_env env, const std::string& value) {
  napi_value made = nullptr;
  napi_create_string_utf8(env, value.data(), value.size(), &made);
  return made;
}
inline napi_value array(napi_env env, const std::vector<napi_value>& items) {
  napi_value made = nullptr;
  napi_create_array_with_length(env, items.size(), &made);
  for (uint32_t i = 0; i < items.size(); ++i) napi_set_element(env, made, i, items[i]);
  return made;
}

}  // namespace vu::bind
