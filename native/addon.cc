// The export list of the addon, and the life of one environment: everything that has a thread or a descriptor is ended
// by shutdown(), by the cleanup hook at the latest.
#include <napi.h>

#include "bind/child.h"
#include "bind/cores.h"
#include "bind/dataplane.h"
#include "bind/environment.h"
#include "bind/fd.h"
#include "bind/file.h"
#include "bind/netns.h"
#include "bind/socket.h"

namespace {

using vu::bind::Environment;

void endEnvironment(void* data) {
  auto* environment = static_cast<Environment*>(data);
  environment->shutDown();
  environment->events->close();
}

Napi::Value shutDown(const Napi::CallbackInfo& info) {
  Environment::of(info.Env()).shutDown();
  return info.Env().Undefined();
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  auto* environment = new Environment();  // freed with the environment by node-addon-api
  env.SetInstanceData(environment);
  environment->events = vu::bind::EventPort::create(env);
  if (environment->events == nullptr) {
    Napi::Error::New(env, "virtio_user: no thread-safe function").ThrowAsJavaScriptException();
    return exports;
  }
  environment->fdClass = Napi::Persistent(vu::bind::Fd::define(env));
  vu::bind::registerDataplane(env, exports);
  vu::bind::registerSockets(env, exports);
  vu::bind::registerNetns(env, exports);
  vu::bind::registerChild(env, exports);
  vu::bind::registerFile(env, exports);
  vu::bind::registerCores(env, exports);
  exports.Set("shutdown", Napi::Function::New(env, shutDown, "shutdown"));
  napi_add_env_cleanup_hook(env, endEnvironment, environment);
  return exports;
}

}  // namespace

NODE_API_MODULE(virtio_user, init)
