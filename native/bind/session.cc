#include "convert.h"
#include "dataplane.h"
#include "fd.h"

namespace vu::bind {
namespace {

constexpr napi_type_tag kSessionTag = {0x2b7e4d1f8c6a4953, 0x8e1d6f2a9b3c4705};

std::optional<MemoryKind> toMemoryKind(napi_env env, const std::string& name) {
  if (name == "memfd") return MemoryKind::kMemfd;
  if (name == "hugetlb") return MemoryKind::kHugetlb;
  if (name == "thp") return MemoryKind::kThp;
  return wrongType(env, "memory", "memfd, hugetlb or thp");
}

std::optional<SessionOptions> toOptions(napi_env env, napi_value object) {
  SessionOptions options;
  const auto pairs = uint32Property(env, object, "pairs");
  if (!pairs) return std::nullopt;
  const auto queueSize = uint32Property(env, object, "queueSize");
  if (!queueSize) return std::nullopt;
  const auto rxBufferBytes = uint32Property(env, object, "rxBufferBytes");
  if (!rxBufferBytes) return std::nullopt;
  const auto featuresValue = property(env, object, "features");
  if (!featuresValue) return std::nullopt;
  const auto features = toUint64(env, *featuresValue, "features");
  if (!features) return std::nullopt;
  const auto memoryName = textProperty(env, object, "memory");
  if (!memoryName) return std::nullopt;
  const auto memory = toMemoryKind(env, *memoryName);
  if (!memory) return std::nullopt;
  return SessionOptions{*pairs, *queueSize, *rxBufferBytes, *features, *memory};
}

napi_value ringLayout(napi_env env, const Session& session, uint32_t ring) {
  const VringLayout& layout = session.layout(ring);
  napi_value object = nullptr;
  napi_create_object(env, &object);
  napi_set_named_property(env, object, "size", number(env, session.options().queueSize));
  napi_set_named_property(env, object, "descriptorAddress", bigint(env, kMemoryLabel + layout.desc));
  napi_set_named_property(env, object, "availAddress", bigint(env, kMemoryLabel + layout.avail));
  napi_set_named_property(env, object, "usedAddress", bigint(env, kMemoryLabel + layout.used));
  return object;
}

void setConstant(napi_env env, napi_value object, const char* name, napi_value value) {
  const napi_property_descriptor descriptor = {name,    nullptr, nullptr,         nullptr,
                                               nullptr, value,   napi_enumerable, nullptr};
  napi_define_properties(env, object, 1, &descriptor);
}

}  // namespace

Napi::Function SessionObject::define(Napi::Env env) {
  return DefineClass(env, "Session",
                     {InstanceMethod<&SessionObject::expectedBase>("expectedBase"),
                      InstanceMethod<&SessionObject::addReceiveBuffers>("addReceiveBuffers"),
                      InstanceMethod<&SessionObject::dropReceiveBuffers>("dropReceiveBuffers"),
                      InstanceMethod<&SessionObject::close>("close")});
}

SessionObject::~SessionObject() {
  if (environment_ != nullptr) environment_->remove(Stage::kSessions, this);
}

Napi::Value SessionObject::create(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto options = toOptions(env, info[0]);
  if (!options) return env.Undefined();
  auto made = Session::create(*options);
  if (!made) {
    throwFault(env, made.fault());
    return env.Undefined();
  }
  Environment& environment = Environment::of(env);
  napi_value object = nullptr;
  if (napi_new_instance(env, environment.sessionClass.Value(), 0, nullptr, &object) != napi_ok) return env.Undefined();
  napi_type_tag_object(env, object, &kSessionTag);
  SessionObject* self = Unwrap(Napi::Object(env, object));
  self->session_ = std::move(made).value();
  self->environment_ = &environment;
  environment.add(Stage::kSessions, self);

  const Session& session = *self->session_;
  std::vector<napi_value> rings;
  std::vector<napi_value> kicks;
  std::vector<napi_value> calls;
  for (uint32_t ring = 0; ring < session.ringCount(); ++ring) {
    rings.push_back(ringLayout(env, session, ring));
    kicks.push_back(Fd::wrap(env, session.kick(ring)));
    calls.push_back(Fd::wrap(env, session.call(ring)));
  }
  setConstant(env, object, "memory", Fd::wrap(env, session.memory()));
  setConstant(env, object, "memoryBytes", bigint(env, session.memoryBytes()));
  setConstant(env, object, "memoryLabel", bigint(env, kMemoryLabel));
  setConstant(env, object, "rings", array(env, rings));
  setConstant(env, object, "kicks", array(env, kicks));
  setConstant(env, object, "calls", array(env, calls));
  setConstant(env, object, "control", ControlQueueObject::wrap(env, self->session_));
  return Napi::Value(env, object);
}

SessionObject* SessionObject::from(Napi::Env env, napi_value value) {
  bool tagged = false;
  if (value == nullptr || napi_check_object_type_tag(env, value, &kSessionTag, &tagged) != napi_ok || !tagged) {
    wrongType(env, "session", "a Session");
    return nullptr;
  }
  SessionObject* self = Unwrap(Napi::Object(env, value));
  if (!self->session_ || !self->session_->mapped()) {
    wrongType(env, "session", "an open Session");
    return nullptr;
  }
  return self;
}

Napi::Value SessionObject::expectedBase(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto ring = toUint32(env, info[0], "ring");
  if (!ring) return env.Undefined();
  if (!session_ || !session_->mapped() || *ring >= session_->ringCount()) {
    throwMisuse(env, "expectedBase: the session is closed or has no such ring");
    return env.Undefined();
  }
  return Napi::Number::New(env, session_->expectedBase(*ring));
}

Napi::Value SessionObject::addReceiveBuffers(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto bytes = toUint32(env, info[0], "rxBufferBytes");
  if (!bytes) return env.Undefined();
  if (!session_ || !session_->mapped()) {
    throwMisuse(env, "addReceiveBuffers: the session is closed");
    return env.Undefined();
  }
  if (const auto added = session_->addReceiveBuffers(*bytes); !added) {
    throwFault(env, added.fault());
    return env.Undefined();
  }
  const SharedRegion& region = session_->regions().back();
  Napi::Object object = Napi::Object::New(env);
  napi_set_named_property(env, object, "fd", Fd::wrap(env, region.fd));
  napi_set_named_property(env, object, "label", bigint(env, region.label));
  napi_set_named_property(env, object, "sizeBytes", bigint(env, region.mapping.size()));
  return object;
}

void SessionObject::dropReceiveBuffers(const Napi::CallbackInfo& info) {
  // A closed session has nothing left to drop.
  if (!session_ || !session_->mapped()) return;
  if (const auto dropped = session_->dropReceiveBuffers(); !dropped) throwFault(info.Env(), dropped.fault());
}

void SessionObject::close(const Napi::CallbackInfo& info) {
  if (!session_) return;
  if (session_->owned()) {
    throwMisuse(info.Env(), "close of a session that a port still owns");
    return;
  }
  session_->close();
}

void SessionObject::shutDown() {
  if (session_ && !session_->owned()) session_->close();
}

}  // namespace vu::bind
