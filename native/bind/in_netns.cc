#include "in_netns.h"

#include <fcntl.h>

#include <cstdio>

#include "../core/netns.h"
#include "convert.h"

namespace vu::bind {

Result<void> NetnsOperations::start(std::function<void(uint64_t id)> body) {
  const uint64_t id = nextId_++;
  Result<Thread> thread = Thread::start("vu-netns", [body = std::move(body), id] { body(id); });
  if (!thread) return thread.fault();
  threads_.emplace(id, std::move(thread).value());
  return {};
}

void NetnsOperations::shutDown() {
  for (auto& [id, thread] : threads_) thread.join();
}

Napi::Value inNetns(Napi::Env env, NetnsOperations* operations, int fd, std::function<NetnsFailure()> work,
                    std::function<napi_value(Napi::Env)> value) {
  auto netns = std::make_shared<UniqueFd>(::fcntl(fd, F_DUPFD_CLOEXEC, 3));
  if (!netns->valid()) {
    throwFault(env, lastFault("fcntl F_DUPFD_CLOEXEC"));
    return env.Undefined();
  }
  napi_deferred deferred = nullptr;
  napi_value promise = nullptr;
  if (napi_create_promise(env, &deferred, &promise) != napi_ok) return env.Undefined();
  const auto body = [netns, work = std::move(work), value = std::move(value), deferred, operations](uint64_t id) {
    NetnsFailure failure;
    if (const Result<void> entered = enterNetns(netns->get()); !entered)
      failure = LinkFault{entered.fault(), "", ""};
    else
      failure = work();
    netns->reset();  // before the promise settles: the caller may be waiting for the namespace to end
    operations->events->post([failure, value, deferred, operations, id](Napi::Env inner) {
      operations->finish(id);
      operations->events->letGo(inner);
      const auto orNull = [](const std::string& text) { return text.empty() ? nullptr : text.c_str(); };
      // Raw calls, whose failure means that the environment is going.
      if (failure) {
        const napi_value error =
            faultError(inner, failure->fault, orNull(failure->object), orNull(failure->explanation));
        napi_reject_deferred(inner, deferred, error);
      } else {
        napi_resolve_deferred(inner, deferred, value(inner));
      }
    });
  };
  operations->events->hold(env);
  if (const Result<void> started = operations->start(body); !started) {
    operations->events->letGo(env);
    napi_reject_deferred(env, deferred, faultError(env, started.fault()));
  }
  return Napi::Value(env, promise);
}

std::string macText(const MacAddress& mac) {
  char text[18] = "";
  std::snprintf(text, sizeof text, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
  return text;
}

}  // namespace vu::bind
