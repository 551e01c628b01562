#include "../core/port.h"

#include <chrono>
#include <condition_variable>

#include "convert.h"
#include "dataplane.h"
#include "fd.h"

namespace vu::bind {
namespace {

constexpr size_t kMaxInjectBytes = 1514;

std::optional<StartOptions> toStartOptions(napi_env env, napi_value object) {
  const auto gso = boolProperty(env, object, "softwareGso");
  if (!gso) return std::nullopt;
  const auto checksum = boolProperty(env, object, "softwareChecksum");
  if (!checksum) return std::nullopt;
  const auto gro = boolProperty(env, object, "softwareGro");
  if (!gro) return std::nullopt;
  const auto activePairs = uint32Property(env, object, "activePairs");
  if (!activePairs) return std::nullopt;
  return StartOptions{*gso, *checksum, *gro, *activePairs};
}

std::optional<MacAddress> toMac(napi_env env, napi_value value, const char* what) {
  const auto written = toText(env, value, what);
  if (!written) return std::nullopt;
  const auto mac = parseMac(*written);
  if (!mac) return wrongType(env, what, "a MAC address");
  return mac;
}

bool toMacs(napi_env env, napi_value object, const char* name, std::vector<MacAddress>* target) {
  const auto value = property(env, object, name);
  if (!value) return false;
  const auto items = toArray(env, *value, name);
  if (!items) return false;
  for (napi_value item : *items) {
    const auto mac = toMac(env, item, name);
    if (!mac) return false;
    target->push_back(*mac);
  }
  return true;
}

std::optional<RxFilterRules> toRules(napi_env env, napi_value object) {
  RxFilterRules rules;
  const std::pair<const char*, bool*> flags[] = {
      {"promiscuous", &rules.promiscuous}, {"allMulticast", &rules.allMulticast}, {"allUnicast", &rules.allUnicast},
      {"noMulticast", &rules.noMulticast}, {"noUnicast", &rules.noUnicast},       {"noBroadcast", &rules.noBroadcast}};
  for (const auto& [name, target] : flags) {
    const auto flag = boolProperty(env, object, name);
    if (!flag) return std::nullopt;
    *target = *flag;
  }
  const auto macValue = property(env, object, "mac");
  if (!macValue) return std::nullopt;
  const auto mac = toMac(env, *macValue, "mac");
  if (!mac) return std::nullopt;
  rules.mac = *mac;
  if (!toMacs(env, object, "unicast", &rules.unicast)) return std::nullopt;
  if (!toMacs(env, object, "multicast", &rules.multicast)) return std::nullopt;
  const auto vlansValue = property(env, object, "vlans");
  if (!vlansValue) return std::nullopt;
  napi_valuetype type = napi_undefined;
  napi_typeof(env, *vlansValue, &type);
  if (type == napi_null) return rules;
  const auto vlans = toArray(env, *vlansValue, "vlans");
  if (!vlans) return std::nullopt;
  rules.filterVlans = true;
  for (napi_value item : *vlans) {
    const auto id = toUint32(env, item, "vlans");
    if (!id) return std::nullopt;
    if (*id >= rules.vlans.size()) return wrongType(env, "vlans", "VLAN ids, 0..4095");
    rules.vlans.set(*id);
  }
  return rules;
}

template <size_t N>
napi_value table(napi_env env, const std::array<const char*, N>& names, const std::array<uint64_t, N>& values) {
  napi_value object = nullptr;
  napi_create_object(env, &object);
  for (size_t i = 0; i < N; ++i) napi_set_named_property(env, object, names[i], bigint(env, values[i]));
  return object;
}

const char* eventName(PortEventKind kind) {
  switch (kind) {
    case PortEventKind::kRingCorrupt:
      return "ring-corrupt";
    case PortEventKind::kKickBlocked:
      return "kick-blocked";
    case PortEventKind::kMemoryLost:
      return "memory-lost";
    case PortEventKind::kTapGone:
      return "tap-gone";
    case PortEventKind::kBackendStalled:
      return "backend-stalled";
  }
  return "";
}

}  // namespace

Napi::Function PortObject::define(Napi::Env env) {
  return DefineClass(
      env, "Port",
      {InstanceMethod<&PortObject::setOffload>("setOffload"), InstanceMethod<&PortObject::setCarrier>("setCarrier"),
       InstanceMethod<&PortObject::start>("start"), InstanceMethod<&PortObject::quiesce>("quiesce"),
       InstanceMethod<&PortObject::useReceiveBuffers>("useReceiveBuffers"),
       InstanceMethod<&PortObject::setRxFilter>("setRxFilter"),
       InstanceMethod<&PortObject::finishTransmit>("finishTransmit"),
       InstanceMethod<&PortObject::detachQueues>("detachQueues"), InstanceMethod<&PortObject::retire>("retire"),
       InstanceMethod<&PortObject::enlist>("enlist"), InstanceMethod<&PortObject::discard>("discard"),
       InstanceMethod<&PortObject::inject>("inject"), InstanceMethod<&PortObject::counters>("counters"),
       InstanceMethod<&PortObject::close>("close")});
}

PortObject::~PortObject() {
  if (environment_ != nullptr) environment_->remove(Stage::kPorts, this);
  // Forgotten without close(): the pumps finish by themselves.
  if (port_ && port_->state() != PortState::kClosed) port_->close(nullptr);
  forgetPumps();
}

Napi::Value PortObject::create(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto tapsValue = property(env, info[0], "taps");
  if (!tapsValue) return env.Undefined();
  const auto tapItems = toArray(env, *tapsValue, "taps");
  if (!tapItems) return env.Undefined();
  const auto pumpsValue = property(env, info[0], "pumps");
  if (!pumpsValue) return env.Undefined();
  const auto pumpItems = toArray(env, *pumpsValue, "pumps");
  if (!pumpItems) return env.Undefined();
  const auto onEvent = handlerProperty(env, info[0], "onEvent");
  if (!onEvent) return env.Undefined();
  if (tapItems->empty() || tapItems->size() > 256 || pumpItems->empty()) {
    throwMisuse(env, "createPort: expected 1..256 taps and at least one pump");
    return env.Undefined();
  }
  std::vector<std::shared_ptr<Pump>> pumps;
  std::vector<std::shared_ptr<uint32_t>> uses;
  for (napi_value item : *pumpItems) {
    PumpObject* pump = PumpObject::from(env, item);
    if (pump == nullptr) return env.Undefined();
    pumps.push_back(pump->pump());
    uses.push_back(pump->ports());
  }
  // All of them are looked at before the first one is taken.
  std::vector<Fd*> fds;
  for (napi_value item : *tapItems) {
    Fd* fd = Fd::from(env, item, "taps");
    if (fd == nullptr) return env.Undefined();
    if (!fd->takeable() || std::find(fds.begin(), fds.end(), fd) != fds.end()) {
      wrongType(env, "taps", "open descriptors, each once, that nobody else owns");
      return env.Undefined();
    }
    fds.push_back(fd);
  }
  std::vector<UniqueFd> taps;
  for (Fd* fd : fds) taps.push_back(fd->take());

  Environment& environment = Environment::of(env);
  auto handler = std::make_shared<Handler>();
  handler->onEvent = Napi::Persistent(Napi::Function(env, *onEvent));
  auto made = Port::create(
      std::move(taps), std::move(pumps),
      [events = environment.events, weak = std::weak_ptr<Handler>(handler)](PortEventKind kind, const char* reason) {
        events->post([weak, kind, reason](Napi::Env where) {
          const std::shared_ptr<Handler> alive = weak.lock();
          if (!alive) return;
          napi_value event = nullptr;
          napi_create_object(where, &event);
          napi_set_named_property(where, event, "kind", Napi::String::New(where, eventName(kind)));
          napi_set_named_property(where, event, "reason", Napi::String::New(where, reason));
          callHandler(where, where.Undefined(), alive->onEvent.Value(), 1, &event);
        });
      });
  if (!made) {
    throwFault(env, made.fault());
    return env.Undefined();
  }
  napi_value object = nullptr;
  if (napi_new_instance(env, environment.portClass.Value(), 0, nullptr, &object) != napi_ok) {
    made.value()->close(nullptr);
    return env.Undefined();
  }
  PortObject* self = Unwrap(Napi::Object(env, object));
  self->port_ = std::move(made).value();
  self->handler_ = std::move(handler);
  self->pumpUses_ = std::move(uses);
  for (auto& use : self->pumpUses_) ++*use;
  self->environment_ = &environment;
  environment.add(Stage::kPorts, self);
  return Napi::Value(env, object);
}

void PortObject::forgetPumps() {
  for (auto& use : pumpUses_) --*use;
  pumpUses_.clear();
}

bool PortObject::checkOpen(Napi::Env env, const char* what) const {
  if (port_ && port_->state() != PortState::kClosed) return true;
  throwMisuse(env, (std::string(what) + " on a closed port").c_str());
  return false;
}

Port::Done PortObject::resolver(Napi::Env env, const Napi::Promise::Deferred& deferred) {
  environment_->events->hold(env);
  return [events = environment_->events, deferred] {
    events->post([events, deferred](Napi::Env where) {
      events->letGo(where);
      deferred.Resolve(where.Undefined());
    });
  };
}

Napi::Value PortObject::setOffload(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (!checkOpen(env, "setOffload")) return env.Undefined();
  const auto mask = toUint32(env, info[0], "mask");
  if (!mask) return env.Undefined();
  if (const auto set = port_->setOffload(*mask); !set) throwFault(env, set.fault());
  return env.Undefined();
}

Napi::Value PortObject::setCarrier(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (!checkOpen(env, "setCarrier")) return env.Undefined();
  const auto up = toBool(env, info[0], "up");
  if (!up) return env.Undefined();
  if (const auto set = port_->setCarrier(*up); !set) throwFault(env, set.fault());
  return env.Undefined();
}

Napi::Value PortObject::start(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (!checkOpen(env, "start")) return env.Undefined();
  SessionObject* session = SessionObject::from(env, info[0]);
  if (session == nullptr) return env.Undefined();
  const auto options = toStartOptions(env, info[1]);
  if (!options) return env.Undefined();
  const auto deferred = Napi::Promise::Deferred::New(env);
  const Port::Done done = resolver(env, deferred);
  if (const auto started = port_->start(session->session(), *options, done); !started) {
    environment_->events->letGo(env);
    deferred.Reject(faultError(env, started.fault()));
  }
  return deferred.Promise();
}

Napi::Value PortObject::quiesce(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto deferred = Napi::Promise::Deferred::New(env);
  if (!port_ || port_->state() == PortState::kClosed) {
    deferred.Resolve(env.Undefined());
  } else {
    port_->quiesce(resolver(env, deferred));
  }
  return deferred.Promise();
}

Napi::Value PortObject::setRxFilter(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (!checkOpen(env, "setRxFilter")) return env.Undefined();
  auto rules = toRules(env, info[0]);
  if (!rules) return env.Undefined();
  // A filter that passes everything is none, and costs nothing.
  std::shared_ptr<const RxFilter> filter;
  if (!rules->promiscuous) filter = std::make_shared<RxFilter>(std::move(*rules));
  const auto deferred = Napi::Promise::Deferred::New(env);
  port_->setRxFilter(std::move(filter), resolver(env, deferred));
  return deferred.Promise();
}

Napi::Value PortObject::useReceiveBuffers(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (!checkOpen(env, "useReceiveBuffers")) return env.Undefined();
  const auto deferred = Napi::Promise::Deferred::New(env);
  if (const auto begun = port_->useReceiveBuffers(resolver(env, deferred)); !begun) {
    environment_->events->letGo(env);
    deferred.Reject(faultError(env, begun.fault()));
  }
  return deferred.Promise();
}

Napi::Value PortObject::switchPairs(const Napi::CallbackInfo& info, Result<void> (Port::*step)(uint32_t, Port::Done)) {
  const Napi::Env env = info.Env();
  if (!checkOpen(env, "switch of queue pairs")) return env.Undefined();
  const auto pairs = toUint32(env, info[0], "pairs");
  if (!pairs) return env.Undefined();
  const auto deferred = Napi::Promise::Deferred::New(env);
  if (const auto begun = ((*port_).*step)(*pairs, resolver(env, deferred)); !begun) {
    environment_->events->letGo(env);
    deferred.Reject(faultError(env, begun.fault()));
  }
  return deferred.Promise();
}

Napi::Value PortObject::finishTransmit(const Napi::CallbackInfo& info) {
  return switchPairs(info, &Port::finishTransmit);
}
Napi::Value PortObject::retire(const Napi::CallbackInfo& info) { return switchPairs(info, &Port::retire); }
Napi::Value PortObject::enlist(const Napi::CallbackInfo& info) { return switchPairs(info, &Port::enlist); }

void PortObject::detachQueues(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (!checkOpen(env, "detachQueues")) return;
  const auto pairs = toUint32(env, info[0], "pairs");
  if (!pairs) return;
  if (const auto detached = port_->detachQueues(*pairs); !detached) throwFault(env, detached.fault());
}

Napi::Value PortObject::discard(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (!checkOpen(env, "discard")) return env.Undefined();
  if (const auto discarding = port_->discard(); !discarding) throwMisuse(env, "discard on a running port");
  return env.Undefined();
}

Napi::Value PortObject::inject(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (!checkOpen(env, "inject")) return env.Undefined();
  const auto bytes = toBytes(env, info[0], "frame");
  if (!bytes) return env.Undefined();
  if (bytes->size() > kMaxInjectBytes) {
    wrongType(env, "frame", "at most 1514 bytes");
    return env.Undefined();
  }
  port_->inject(std::vector<uint8_t>(bytes->begin(), bytes->end()));
  return env.Undefined();
}

Napi::Value PortObject::counters(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  // A closed port still tells what it counted.
  const CounterTotals totals = port_ ? port_->counters() : CounterTotals{};
  napi_value object = nullptr;
  napi_create_object(env, &object);
  napi_set_named_property(env, object, "txFrames", bigint(env, totals.txFrames));
  napi_set_named_property(env, object, "txBytes", bigint(env, totals.txBytes));
  napi_set_named_property(env, object, "rxFrames", bigint(env, totals.rxFrames));
  napi_set_named_property(env, object, "rxBytes", bigint(env, totals.rxBytes));
  napi_set_named_property(env, object, "drops", table(env, kDropNames, totals.drops));
  napi_set_named_property(env, object, "events", table(env, kEventNames, totals.events));
  return Napi::Value(env, object);
}

Napi::Value PortObject::close(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto deferred = Napi::Promise::Deferred::New(env);
  if (!port_ || port_->state() == PortState::kClosed) {
    deferred.Resolve(env.Undefined());
    return deferred.Promise();
  }
  // No event after close.
  handler_.reset();
  port_->close(resolver(env, deferred));
  forgetPumps();
  return deferred.Promise();
}

void PortObject::shutDown() {
  if (!port_ || port_->state() == PortState::kClosed) return;
  handler_.reset();
  struct Latch {
    std::mutex mutex;
    std::condition_variable condition;
    bool done = false;
  };
  const auto latch = std::make_shared<Latch>();
  port_->close([latch] {
    const std::lock_guard lock(latch->mutex);
    latch->done = true;
    latch->condition.notify_all();
  });
  std::unique_lock lock(latch->mutex);
  latch->condition.wait_for(lock, std::chrono::seconds(2), [&] { return latch->done; });
  forgetPumps();
}

}  // namespace vu::bind
