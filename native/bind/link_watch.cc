#include "link_watch.h"

#include <fcntl.h>

#include "convert.h"
#include "fd.h"

namespace vu::bind {
namespace {

napi_value macs(napi_env env, const std::vector<MacAddress>& addresses) {
  std::vector<napi_value> items;
  for (const MacAddress& mac : addresses) items.push_back(text(env, macText(mac)));
  return array(env, items);
}

napi_value filterValue(napi_env env, const LinkFilter& filter) {
  napi_value result = nullptr;
  napi_create_object(env, &result);
  napi_set_named_property(env, result, "mac", text(env, macText(filter.mac)));
  napi_set_named_property(env, result, "mtu", number(env, filter.mtu));
  napi_set_named_property(env, result, "promiscuous", Napi::Boolean::New(env, filter.promiscuous));
  napi_set_named_property(env, result, "allMulticast", Napi::Boolean::New(env, filter.allMulticast));
  napi_set_named_property(env, result, "unicast", macs(env, filter.unicast));
  napi_set_named_property(env, result, "multicast", macs(env, filter.multicast));
  return result;
}

// What the thread in the namespace brings back.
struct Opened {
  UniqueFd events;
  bool groups = false;
};

}  // namespace

Napi::Function LinkWatchObject::define(Napi::Env env) {
  return DefineClass(
      env, "PodLinkWatch",
      {InstanceMethod<&LinkWatchObject::read>("read"), InstanceMethod<&LinkWatchObject::close>("close")});
}

LinkWatchObject::~LinkWatchObject() {
  if (environment_ != nullptr) environment_->remove(Stage::kIo, this);
  if (watch_) watch_->close();
}

Napi::Value LinkWatchObject::open(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  auto* operations = static_cast<NetnsOperations*>(info.Data());
  const auto borrowed = Fd::borrow(env, info[0], "netns");
  if (!borrowed) return env.Undefined();
  const auto ifindex = toUint32(env, info[1], "ifindex");
  if (!ifindex) return env.Undefined();
  if (!info[2].IsFunction()) {
    wrongType(env, "onChange", "a function");
    return env.Undefined();
  }
  auto netns = std::make_shared<UniqueFd>(::fcntl(*borrowed, F_DUPFD_CLOEXEC, 3));
  if (!netns->valid()) {
    throwFault(env, lastFault("fcntl F_DUPFD_CLOEXEC"));
    return env.Undefined();
  }
  auto handler = std::make_shared<Napi::FunctionReference>(Napi::Persistent(info[2].As<Napi::Function>()));
  auto opened = std::make_shared<Opened>();
  return inNetns(
      env, operations, *borrowed,
      [opened]() -> NetnsFailure {
        auto events = openLinkEvents(&opened->groups);
        if (!events) return LinkFault{events.fault(), "", ""};
        opened->events = std::move(events).value();
        return std::nullopt;
      },
      [opened, netns, handler, operations, ifindex = *ifindex](Napi::Env inner) -> napi_value {
        Environment& environment = Environment::of(inner);
        napi_value object = nullptr;
        if (napi_new_instance(inner, environment.linkWatchClass.Value(), 0, nullptr, &object) != napi_ok) {
          return inner.Undefined();
        }
        LinkWatchObject* self = Unwrap(Napi::Object(inner, object));
        self->operations_ = operations;
        self->netns_ = std::move(*netns);
        self->ifindex_ = ifindex;
        self->groups_ = opened->groups;
        self->onChange_ = handler;
        // Without a reactor there are no sockets either; read() works all the same.
        auto reactor = environment.startReactor();
        if (!reactor) return object;
        auto watch = LinkWatch::open(reactor.value(), std::move(opened->events),
                                     [events = environment.events, weak = std::weak_ptr(handler)] {
                                       events->post([weak](Napi::Env where) {
                                         const auto alive = weak.lock();
                                         if (!alive) return;
                                         callHandler(where, where.Undefined(), alive->Value(), 0, nullptr);
                                       });
                                     });
        if (!watch) return object;
        self->watch_ = std::move(watch).value();
        self->environment_ = &environment;
        environment.add(Stage::kIo, self);
        return object;
      });
}

Napi::Value LinkWatchObject::read(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (!netns_) {
    throwMisuse(env, "read of a closed PodLinkWatch");
    return env.Undefined();
  }
  // Before the look: what changes afterwards is told.
  if (watch_) watch_->listen();
  auto found = std::make_shared<std::optional<LinkFilter>>();
  return inNetns(
      env, operations_, netns_.get(),
      // Where nobody tells when the pod joins a group it gets them all.
      [found, ifindex = ifindex_, groups = groups_] { return readLinkFilter(ifindex, groups, found.get()); },
      [found](Napi::Env inner) -> napi_value { return *found ? filterValue(inner, **found) : inner.Null(); });
}

void LinkWatchObject::shutDown() {
  if (watch_) watch_->close();
  watch_.reset();
  onChange_.reset();
  netns_.reset();
}

void LinkWatchObject::close(const Napi::CallbackInfo& /*info*/) { shutDown(); }

void registerLinkWatch(Napi::Env env, Napi::Object exports, NetnsOperations* operations) {
  Environment::of(env).linkWatchClass = Napi::Persistent(LinkWatchObject::define(env));
  exports.Set("watchPodLink", Napi::Function::New(env, &LinkWatchObject::open, "watchPodLink", operations));
}

}  // namespace vu::bind
