#include "../core/pump.h"

#include "convert.h"
#include "dataplane.h"

namespace vu::bind {
namespace {

constexpr napi_type_tag kPumpTag = {0x71c5a83e0d9f4b26, 0x94f82c6b1e7a4d30};
// A spin longer than this is a mistake in units.
constexpr uint32_t kMaxSpinUs = 10'000;

}  // namespace

Napi::Function PumpObject::define(Napi::Env env) {
  return DefineClass(
      env, "Pump",
      {InstanceMethod<&PumpObject::close>("close"), InstanceAccessor<&PumpObject::writesTogether>("writesTogether")});
}

PumpObject::~PumpObject() {
  if (environment_ != nullptr) environment_->remove(Stage::kPumps, this);
  if (pump_) pump_->stop();
}

Napi::Value PumpObject::create(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto name = textProperty(env, info[0], "name");
  if (!name) return env.Undefined();
  const auto spinUs = uint32Property(env, info[0], "spinUs");
  if (!spinUs) return env.Undefined();
  if (*spinUs > kMaxSpinUs) {
    throwMisuse(env, "spinUs: expected 0..10000");
    return env.Undefined();
  }
  auto made = Pump::create(*name, *spinUs);
  if (!made) {
    throwFault(env, made.fault());
    return env.Undefined();
  }
  Environment& environment = Environment::of(env);
  napi_value object = nullptr;
  if (napi_new_instance(env, environment.pumpClass.Value(), 0, nullptr, &object) != napi_ok) return env.Undefined();
  napi_type_tag_object(env, object, &kPumpTag);
  PumpObject* self = Unwrap(Napi::Object(env, object));
  self->pump_ = std::move(made).value();
  self->ports_ = std::make_shared<uint32_t>(0);
  self->environment_ = &environment;
  environment.add(Stage::kPumps, self);
  return Napi::Value(env, object);
}

PumpObject* PumpObject::from(Napi::Env env, napi_value value) {
  bool tagged = false;
  if (value == nullptr || napi_check_object_type_tag(env, value, &kPumpTag, &tagged) != napi_ok || !tagged) {
    wrongType(env, "pumps", "Pumps");
    return nullptr;
  }
  PumpObject* self = Unwrap(Napi::Object(env, value));
  if (!self->pump_) {
    wrongType(env, "pumps", "open Pumps");
    return nullptr;
  }
  return self;
}

Napi::Value PumpObject::writesTogether(const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), pump_ && pump_->writesTogether());
}

void PumpObject::close(const Napi::CallbackInfo& info) {
  if (!pump_) return;
  if (*ports_ != 0) {
    throwMisuse(info.Env(), "close of a pump that still has ports");
    return;
  }
  shutDown();
}

void PumpObject::shutDown() {
  if (!pump_) return;
  pump_->stop();
  pump_.reset();
}

}  // namespace vu::bind
