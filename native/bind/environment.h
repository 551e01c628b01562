// What one JavaScript environment (main thread or worker) of the addon holds: its event port, classes and live objects.
#pragma once

#include <napi.h>

#include <array>
#include <functional>
#include <memory>
#include <set>

#include "../core/reactor.h"
#include "event_port.h"

namespace vu::bind {

// Something with threads or descriptors that must end before its environment does.
class LiveObject {
 public:
  virtual ~LiveObject() = default;
  // On the JS thread, synchronous, idempotent, bounded in time. No JavaScript is called.
  virtual void shutDown() = 0;
};

// Order of shutdown.
enum class Stage : unsigned { kIo, kPorts, kPumps, kSessions, kCount };

struct Environment {
  std::shared_ptr<EventPort> events;
  Napi::FunctionReference fdClass;
  Napi::FunctionReference sessionClass;
  Napi::FunctionReference pumpClass;
  Napi::FunctionReference portClass;
  Napi::FunctionReference controlQueueClass;
  Napi::FunctionReference linkWatchClass;
  // The reactor of this environment's sockets; its thread starts with the first use.
  std::function<Result<std::shared_ptr<Reactor>>()> startReactor;

  static Environment& of(Napi::Env env) { return *env.GetInstanceData<Environment>(); }

  void add(Stage stage, LiveObject* object) { live_[static_cast<unsigned>(stage)].insert(object); }
  void remove(Stage stage, LiveObject* object) { live_[static_cast<unsigned>(stage)].erase(object); }
  // Stops every thread and closes every object, in the order of the stages.
  void shutDown() {
    for (auto& stage : live_) {
      const std::set<LiveObject*> objects = stage;
      for (LiveObject* object : objects) object->shutDown();
    }
  }

 private:
  std::array<std::set<LiveObject*>, static_cast<unsigned>(Stage::kCount)> live_;
};

}  // namespace vu::bind
