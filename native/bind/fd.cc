#include "fd.h"

#include <sys/stat.h>

#include "convert.h"
#include "environment.h"

namespace vu::bind {
namespace {

constexpr napi_type_tag kFdTag = {0x9f3c1b6a52d84e07, 0xb7a05d3e8c214f69};

}  // namespace

Napi::Function Fd::define(Napi::Env env) {
  return DefineClass(env, "NativeFd",
                     {InstanceMethod<&Fd::close>("close"), InstanceAccessor<&Fd::getIsOpen>("isOpen"),
                      InstanceMethod<&Fd::identity>("identity")});
}

napi_value Fd::wrap(Napi::Env env, std::shared_ptr<UniqueFd> fd) {
  napi_value object = nullptr;
  if (napi_new_instance(env, Environment::of(env).fdClass.Value(), 0, nullptr, &object) != napi_ok) return nullptr;
  napi_type_tag_object(env, object, &kFdTag);
  Unwrap(Napi::Object(env, object))->fd_ = std::move(fd);
  return object;
}

Fd* Fd::from(Napi::Env env, napi_value value, const char* what) {
  bool tagged = false;
  if (value == nullptr || napi_check_object_type_tag(env, value, &kFdTag, &tagged) != napi_ok || !tagged) {
    wrongType(env, what, "a NativeFd");
    return nullptr;
  }
  return Unwrap(Napi::Object(env, value));
}

std::optional<int> Fd::borrow(Napi::Env env, napi_value value, const char* what) {
  const Fd* fd = from(env, value, what);
  if (fd == nullptr) return std::nullopt;
  if (!fd->isOpen()) return wrongType(env, what, "an open NativeFd");
  return fd->fd_->get();
}

UniqueFd Fd::take() {
  if (!takeable()) return UniqueFd();
  UniqueFd taken = std::move(*fd_);
  fd_.reset();
  return taken;
}

void Fd::close(const Napi::CallbackInfo& /*info*/) { fd_.reset(); }

Napi::Value Fd::getIsOpen(const Napi::CallbackInfo& info) { return Napi::Boolean::New(info.Env(), isOpen()); }

Napi::Value Fd::identity(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (!isOpen()) {
    throwMisuse(env, "identity of a closed NativeFd");
    return env.Undefined();
  }
  struct stat status {};
  if (::fstat(fd_->get(), &status) != 0) {
    throwFault(env, lastFault("fstat"));
    return env.Undefined();
  }
  napi_value result = nullptr;
  napi_create_object(env, &result);
  napi_set_named_property(env, result, "device", bigint(env, status.st_dev));
  napi_set_named_property(env, result, "inode", bigint(env, status.st_ino));
  return Napi::Value(env, result);
}

}  // namespace vu::bind
