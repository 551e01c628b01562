// PodLinkWatch (src/native/binding.ts).
#pragma once

#include <napi.h>

#include <memory>

#include "../core/link_watch.h"
#include "in_netns.h"

namespace vu::bind {

class LinkWatchObject : public Napi::ObjectWrap<LinkWatchObject>, public LiveObject {
 public:
  static Napi::Function define(Napi::Env env);
  explicit LinkWatchObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<LinkWatchObject>(info) {}
  ~LinkWatchObject() override;
  // watchPodLink(netns, ifindex, onChange); the function's data is the NetnsOperations.
  static Napi::Value open(const Napi::CallbackInfo& info);
  void shutDown() override;

 private:
  Napi::Value read(const Napi::CallbackInfo& info);
  void close(const Napi::CallbackInfo& info);

  NetnsOperations* operations_ = nullptr;
  Environment* environment_ = nullptr;
  std::shared_ptr<LinkWatch> watch_;
  std::shared_ptr<Napi::FunctionReference> onChange_;
  UniqueFd netns_;
  uint32_t ifindex_ = 0;
  bool groups_ = false;
};

// Adds watchPodLink.
void registerLinkWatch(Napi::Env env, Napi::Object exports, NetnsOperations* operations);

}  // namespace vu::bind
