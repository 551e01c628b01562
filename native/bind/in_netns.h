// Work in the network namespace of a pod: on a thread of its own, which ends afterwards.
#pragma once

#include <napi.h>

#include <functional>
#include <map>
#include <memory>
#include <optional>

#include "../core/pod_link.h"
#include "../core/thread.h"
#include "environment.h"

namespace vu::bind {

using NetnsFailure = std::optional<LinkFault>;

// Threads that are in a namespace now. The addon may be unloaded with its environment: none may outlive it.
class NetnsOperations : public LiveObject {
 public:
  explicit NetnsOperations(std::shared_ptr<EventPort> port) : events(std::move(port)) {}

  Result<void> start(std::function<void(uint64_t id)> body);
  // Joins one that has nothing left to do.
  void finish(uint64_t id) { threads_.erase(id); }
  // Every step of theirs is bounded: answers of netlink by a timeout, the rest does not wait.
  void shutDown() override;

  const std::shared_ptr<EventPort> events;

 private:
  uint64_t nextId_ = 1;
  std::map<uint64_t, Thread> threads_;
};

// Runs `work` on a thread of its own inside the namespace, then settles a promise: with `value`, or with the failure.
// `netns` is borrowed for the call. THREAD: work runs on the new thread, value on the JS thread.
Napi::Value inNetns(Napi::Env env, NetnsOperations* operations, int netns, std::function<NetnsFailure()> work,
                    std::function<napi_value(Napi::Env)> value);

// aa:bb:cc:dd:ee:ff
std::string macText(const MacAddress& mac);

}  // namespace vu::bind
