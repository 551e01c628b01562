#include "dataplane.h"

namespace vu::bind {
namespace {

void defineFunction(Napi::Env env, Napi::Object exports, const char* name, const Napi::Function& function) {
  napi_set_named_property(env, exports, name, function);
}

}  // namespace

void registerDataplane(Napi::Env env, Napi::Object exports) {
  Environment& environment = Environment::of(env);
  environment.sessionClass = Napi::Persistent(SessionObject::define(env));
  environment.controlQueueClass = Napi::Persistent(ControlQueueObject::define(env));
  environment.pumpClass = Napi::Persistent(PumpObject::define(env));
  environment.portClass = Napi::Persistent(PortObject::define(env));
  defineFunction(env, exports, "createSession", Napi::Function::New<&SessionObject::create>(env, "createSession"));
  defineFunction(env, exports, "createPump", Napi::Function::New<&PumpObject::create>(env, "createPump"));
  defineFunction(env, exports, "createPort", Napi::Function::New<&PortObject::create>(env, "createPort"));
}

}  // namespace vu::bind
