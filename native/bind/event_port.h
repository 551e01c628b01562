// The way from native threads to JavaScript: one thread-safe function per environment, one task at a time.
//
// Pumps, reactor and threads of a namespace or a child post through the environment's one port.
// The queue is not bounded by itself: who posts is (a completion per command, one event more per child, an event per
// port and start), so no task is ever lost while the environment lives. After close() tasks are dropped and freed.
#pragma once

#include <napi.h>

#include <functional>
#include <memory>
#include <mutex>

namespace vu::bind {

class EventPort {
 public:
  // Runs on the JS thread with a handle scope. Must not let a C++ exception out.
  using Task = std::function<void(Napi::Env)>;

  // On the JS thread. nullptr when the environment refuses. Does not keep the process alive.
  static std::shared_ptr<EventPort> create(Napi::Env env);
  EventPort(const EventPort&) = delete;
  EventPort& operator=(const EventPort&) = delete;

  // From any thread. false: closed, the task was freed unrun.
  bool post(Task task);
  // On the JS thread, from the environment's cleanup hook at the latest. Idempotent.
  void close();

  // On the JS thread: while anything is held the process stays alive. Calls nest.
  void hold(Napi::Env env);
  void letGo(Napi::Env env);

 private:
  EventPort() = default;
  static void callJs(napi_env env, napi_value callback, void* context, void* data);

  std::mutex mutex_;
  napi_threadsafe_function function_ = nullptr;
  unsigned holds_ = 0;
};

// Calls a JS function with a raw call: during teardown Napi::Function::Call would throw through Node's frames and
// abort. An exception of the handler goes to `uncaughtException`.
void callHandler(Napi::Env env, napi_value receiver, napi_value handler, size_t argc, const napi_value* argv);

}  // namespace vu::bind
