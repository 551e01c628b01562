// NativeFd: a file descriptor as JavaScript holds it. Never an integer on that side.
#pragma once

#include <napi.h>

#include <memory>
#include <optional>

#include "../core/unique_fd.h"

namespace vu::bind {

class Fd : public Napi::ObjectWrap<Fd> {
 public:
  static Napi::Function define(Napi::Env env);
  explicit Fd(const Napi::CallbackInfo& info) : Napi::ObjectWrap<Fd>(info) {}

  // A new object. Shared: the descriptor stays open for its other owners when JavaScript closes the object.
  static napi_value wrap(Napi::Env env, std::shared_ptr<UniqueFd> fd);
  static napi_value wrap(Napi::Env env, UniqueFd fd) { return wrap(env, std::make_shared<UniqueFd>(std::move(fd))); }
  // nullptr and a TypeError: not a NativeFd. It may be closed.
  static Fd* from(Napi::Env env, napi_value value, const char* what);
  // Number of an open descriptor, borrowed; a closed one is a TypeError.
  static std::optional<int> borrow(Napi::Env env, napi_value value, const char* what);

  // Takes ownership, the object is closed afterwards. Empty when closed or owned by others too (nothing is thrown).
  UniqueFd take();
  bool isOpen() const { return fd_ && fd_->valid(); }
  // An open descriptor that nobody else owns: take() will succeed.
  bool takeable() const { return isOpen() && fd_.use_count() == 1; }

 private:
  void close(const Napi::CallbackInfo& info);
  Napi::Value getIsOpen(const Napi::CallbackInfo& info);
  Napi::Value identity(const Napi::CallbackInfo& info);

  std::shared_ptr<UniqueFd> fd_;
};

}  // namespace vu::bind
