#include "../core/control_queue.h"

#include "convert.h"
#include "dataplane.h"

namespace vu::bind {
namespace {

std::optional<uint8_t> byteProperty(napi_env env, napi_value object, const char* name) {
  const auto value = uint32Property(env, object, name);
  if (!value) return std::nullopt;
  if (*value > 0xff) return wrongType(env, name, "a byte");
  return static_cast<uint8_t>(*value);
}

}  // namespace

Napi::Function ControlQueueObject::define(Napi::Env env) {
  return DefineClass(
      env, "ControlQueue",
      {InstanceMethod<&ControlQueueObject::submit>("submit"),
       InstanceMethod<&ControlQueueObject::takeAnswer>("takeAnswer"), InstanceMethod<&ControlQueueObject::next>("next"),
       InstanceMethod<&ControlQueueObject::complete>("complete")});
}

napi_value ControlQueueObject::wrap(Napi::Env env, std::shared_ptr<Session> session) {
  napi_value object = nullptr;
  if (session->control() == nullptr) {
    napi_get_null(env, &object);
    return object;
  }
  if (napi_new_instance(env, Environment::of(env).controlQueueClass.Value(), 0, nullptr, &object) != napi_ok) {
    return env.Undefined();
  }
  Unwrap(Napi::Object(env, object))->session_ = std::move(session);
  return object;
}

ControlQueue* ControlQueueObject::usable(Napi::Env env) const {
  if (!session_ || !session_->mapped() || session_->control() == nullptr) {
    throwMisuse(env, "control queue of a closed session");
    return nullptr;
  }
  ControlQueue* queue = session_->control();
  if (queue->broken() == nullptr) return queue;
  throwFault(env, Fault{EPIPE, queue->broken()});
  return nullptr;
}

Napi::Value ControlQueueObject::submit(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  ControlQueue* queue = usable(env);
  if (queue == nullptr) return env.Undefined();
  const auto commandClass = byteProperty(env, info[0], "commandClass");
  if (!commandClass) return env.Undefined();
  const auto command = byteProperty(env, info[0], "command");
  if (!command) return env.Undefined();
  const auto data = bytesProperty(env, info[0], "data");
  if (!data) return env.Undefined();
  const auto token = queue->submit(ControlCommand{*commandClass, *command, {data->begin(), data->end()}});
  if (!token) {
    throwFault(env, token.fault());
    return env.Undefined();
  }
  return Napi::Number::New(env, token.value());
}

Napi::Value ControlQueueObject::takeAnswer(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  ControlQueue* queue = usable(env);
  if (queue == nullptr) return env.Undefined();
  const auto answer = queue->takeAnswer();
  // It may have broken by this very look.
  if (!answer) return usable(env) == nullptr ? env.Undefined() : env.Null();
  Napi::Object object = Napi::Object::New(env);
  napi_set_named_property(env, object, "token", number(env, answer->token));
  napi_set_named_property(env, object, "ack", number(env, answer->ack));
  return object;
}

Napi::Value ControlQueueObject::next(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  ControlQueue* queue = usable(env);
  if (queue == nullptr) return env.Undefined();
  const auto command = queue->next();
  if (!command) return usable(env) == nullptr ? env.Undefined() : env.Null();
  Napi::Object object = Napi::Object::New(env);
  napi_set_named_property(env, object, "commandClass", number(env, command->commandClass));
  napi_set_named_property(env, object, "command", number(env, command->command));
  napi_set_named_property(env, object, "data",
                          Napi::Buffer<uint8_t>::Copy(env, command->data.data(), command->data.size()));
  return object;
}

void ControlQueueObject::complete(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  ControlQueue* queue = usable(env);
  if (queue == nullptr) return;
  const auto ack = toUint32(env, info[0], "ack");
  if (ack) queue->complete(static_cast<uint8_t>(*ack));
}

}  // namespace vu::bind
