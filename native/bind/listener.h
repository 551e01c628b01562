// Listener and IncomingSocket (src/native/binding.ts).
#pragma once

#include <napi.h>

#include <memory>

#include "socket.h"

namespace vu::bind {

// A peer that waits for accept() or refuse(). Good for the call of onConnection only: afterwards it is closed.
class IncomingObject : public Napi::ObjectWrap<IncomingObject> {
 public:
  static Napi::Function define(Napi::Env env);
  explicit IncomingObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<IncomingObject>(info) {}

  static napi_value wrap(Napi::Env env, SocketContext* context, UniqueFd fd, const PeerCredentials& peer);
  static void drop(Napi::Env env, napi_value value);

 private:
  Napi::Value accept(const Napi::CallbackInfo& info);
  void refuse(const Napi::CallbackInfo& info);

  SocketContext* context_ = nullptr;
  UniqueFd fd_;
  PeerCredentials peer_;
};

class ListenerObject : public Napi::ObjectWrap<ListenerObject>, public LiveObject {
 public:
  static Napi::Function define(Napi::Env env);
  explicit ListenerObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<ListenerObject>(info) {}
  ~ListenerObject() override;
  // listenUnix(options, handlers); the function's data is the SocketContext.
  static Napi::Value open(const Napi::CallbackInfo& info);
  void shutDown() override;

 private:
  // Alive while the listener is open: events that find it gone close what they carry.
  struct Link {
    ListenerObject* object = nullptr;
    Napi::FunctionReference onConnection;
    Napi::FunctionReference onFault;
  };

  static void connected(Napi::Env env, Link& link, UniqueFd fd, const PeerCredentials& peer);
  void close(const Napi::CallbackInfo& info);

  SocketContext* context_ = nullptr;
  std::shared_ptr<ListenSocket> socket_;
  std::shared_ptr<Link> link_;
};

}  // namespace vu::bind
