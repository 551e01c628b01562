#include "event_port.h"

namespace vu::bind {

std::shared_ptr<EventPort> EventPort::create(Napi::Env env) {
  std::shared_ptr<EventPort> port(new EventPort());
  const Napi::String name = Napi::String::New(env, "virtio-user events");
  const napi_status made = napi_create_threadsafe_function(env, nullptr, nullptr, name, 0, 1, nullptr, nullptr, nullptr,
                                                           &EventPort::callJs, &port->function_);
  if (made != napi_ok) return nullptr;
  napi_unref_threadsafe_function(env, port->function_);
  return port;
}

bool EventPort::post(Task task) {
  auto* boxed = new Task(std::move(task));
  {
    // Held over the call: close() must not free the function between the check and the call.
    const std::lock_guard lock(mutex_);
    if (function_ != nullptr && napi_call_threadsafe_function(function_, boxed, napi_tsfn_nonblocking) == napi_ok) {
      return true;
    }
  }
  delete boxed;
  return false;
}

void EventPort::close() {
  napi_threadsafe_function function = nullptr;
  {
    const std::lock_guard lock(mutex_);
    std::swap(function, function_);
  }
  if (function != nullptr) napi_release_threadsafe_function(function, napi_tsfn_abort);
}

void EventPort::hold(Napi::Env env) {
  if (holds_++ == 0 && function_ != nullptr) napi_ref_threadsafe_function(env, function_);
}

void EventPort::letGo(Napi::Env env) {
  if (--holds_ == 0 && function_ != nullptr) napi_unref_threadsafe_function(env, function_);
}

void EventPort::callJs(napi_env env, napi_value /*callback*/, void* /*context*/, void* data) {
  const std::unique_ptr<Task> task(static_cast<Task*>(data));
  // The environment is going: nobody is left to hear it.
  if (env == nullptr) return;
  const Napi::HandleScope scope(env);
  (*task)(Napi::Env(env));
}

void callHandler(Napi::Env env, napi_value receiver, napi_value handler, size_t argc, const napi_value* argv) {
  napi_value result = nullptr;
  const napi_status status = napi_call_function(env, receiver, handler, argc, argv, &result);
  if (status != napi_pending_exception) return;
  napi_value error = nullptr;
  if (napi_get_and_clear_last_exception(env, &error) == napi_ok) napi_fatal_exception(env, error);
}

}  // namespace vu::bind
