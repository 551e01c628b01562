// Session, Pump and Port as JavaScript sees them (src/native/binding.ts).
#pragma once

#include <napi.h>

#include <memory>

#include "../core/port.h"
#include "../core/pump.h"
#include "../core/session.h"
#include "environment.h"

namespace vu::bind {

class SessionObject : public Napi::ObjectWrap<SessionObject>, public LiveObject {
 public:
  static Napi::Function define(Napi::Env env);
  explicit SessionObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<SessionObject>(info) {}
  ~SessionObject() override;
  // createSession(options)
  static Napi::Value create(const Napi::CallbackInfo& info);
  // nullptr and a TypeError: not a session, or a closed one.
  static SessionObject* from(Napi::Env env, napi_value value);
  const std::shared_ptr<Session>& session() const { return session_; }
  void shutDown() override;

 private:
  Napi::Value expectedBase(const Napi::CallbackInfo& info);
  Napi::Value addReceiveBuffers(const Napi::CallbackInfo& info);
  void dropReceiveBuffers(const Napi::CallbackInfo& info);
  void close(const Napi::CallbackInfo& info);

  Environment* environment_ = nullptr;
  std::shared_ptr<Session> session_;
};

// The control queue of a session that has one.
class ControlQueueObject : public Napi::ObjectWrap<ControlQueueObject> {
 public:
  static Napi::Function define(Napi::Env env);
  explicit ControlQueueObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<ControlQueueObject>(info) {}
  static napi_value wrap(Napi::Env env, std::shared_ptr<Session> session);

 private:
  Napi::Value submit(const Napi::CallbackInfo& info);
  Napi::Value takeAnswer(const Napi::CallbackInfo& info);
  Napi::Value next(const Napi::CallbackInfo& info);
  void complete(const Napi::CallbackInfo& info);
  // nullptr and an error thrown: the session is closed, or the queue is broken.
  ControlQueue* usable(Napi::Env env) const;

  std::shared_ptr<Session> session_;
};

class PumpObject : public Napi::ObjectWrap<PumpObject>, public LiveObject {
 public:
  static Napi::Function define(Napi::Env env);
  explicit PumpObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<PumpObject>(info) {}
  ~PumpObject() override;
  // createPump(options)
  static Napi::Value create(const Napi::CallbackInfo& info);
  static PumpObject* from(Napi::Env env, napi_value value);
  const std::shared_ptr<Pump>& pump() const { return pump_; }
  // Ports that are not closed. Shared with them: a port may outlive this object.
  const std::shared_ptr<uint32_t>& ports() const { return ports_; }
  void shutDown() override;

 private:
  void close(const Napi::CallbackInfo& info);
  Napi::Value writesTogether(const Napi::CallbackInfo& info);

  Environment* environment_ = nullptr;
  std::shared_ptr<Pump> pump_;
  std::shared_ptr<uint32_t> ports_;
};

class PortObject : public Napi::ObjectWrap<PortObject>, public LiveObject {
 public:
  static Napi::Function define(Napi::Env env);
  explicit PortObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<PortObject>(info) {}
  ~PortObject() override;
  // createPort(options)
  static Napi::Value create(const Napi::CallbackInfo& info);
  void shutDown() override;

 private:
  // The event handler and what it needs; pump threads refer to it weakly.
  struct Handler {
    Napi::FunctionReference onEvent;
  };

  Napi::Value setOffload(const Napi::CallbackInfo& info);
  Napi::Value setCarrier(const Napi::CallbackInfo& info);
  Napi::Value start(const Napi::CallbackInfo& info);
  Napi::Value quiesce(const Napi::CallbackInfo& info);
  Napi::Value useReceiveBuffers(const Napi::CallbackInfo& info);
  Napi::Value setRxFilter(const Napi::CallbackInfo& info);
  Napi::Value finishTransmit(const Napi::CallbackInfo& info);
  void detachQueues(const Napi::CallbackInfo& info);
  Napi::Value retire(const Napi::CallbackInfo& info);
  Napi::Value enlist(const Napi::CallbackInfo& info);
  Napi::Value switchPairs(const Napi::CallbackInfo& info, Result<void> (Port::*step)(uint32_t, Port::Done));
  Napi::Value discard(const Napi::CallbackInfo& info);
  Napi::Value inject(const Napi::CallbackInfo& info);
  Napi::Value counters(const Napi::CallbackInfo& info);
  Napi::Value close(const Napi::CallbackInfo& info);

  // false and a TypeError on an object that has no open port.
  bool checkOpen(Napi::Env env, const char* what) const;
  // A completion that resolves `deferred` on the JS thread and keeps the process alive until then.
  Port::Done resolver(Napi::Env env, const Napi::Promise::Deferred& deferred);
  void forgetPumps();

  Environment* environment_ = nullptr;
  std::shared_ptr<Port> port_;
  std::shared_ptr<Handler> handler_;
  std::vector<std::shared_ptr<uint32_t>> pumpUses_;
};

// Adds createSession, createPump and createPort to `exports`, and their classes to the environment (set up before).
void registerDataplane(Napi::Env env, Napi::Object exports);

}  // namespace vu::bind
