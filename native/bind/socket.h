// listenUnix, connectUnix and socketPair, and their objects (src/native/binding.ts).
#pragma once

#include <napi.h>

#include <memory>
#include <optional>
#include <set>
#include <string>

#include "../core/stream_socket.h"
#include "environment.h"

namespace vu::bind {

// What the sockets of one environment share: the reactor, and who is open. Never freed, on purpose: objects may be
// finalized after everything else.
struct SocketContext : LiveObject {
  std::shared_ptr<EventPort> events;
  std::shared_ptr<Reactor> reactor;
  std::set<LiveObject*> open;
  Napi::FunctionReference socketClass;
  Napi::FunctionReference incomingClass;
  Napi::FunctionReference listenerClass;

  // The thread starts with the first socket, and anew with the first after shutDown().
  Result<std::shared_ptr<Reactor>> start();
  void shutDown() override;
};

// FdSocket. What posted events need is in `Link`, which only the JS thread lets go.
class SocketObject : public Napi::ObjectWrap<SocketObject>, public LiveObject {
 public:
  static Napi::Function define(Napi::Env env);
  explicit SocketObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<SocketObject>(info) {}
  ~SocketObject() override;

  // Takes the descriptor; nullptr with a thrown error on failure.
  static napi_value open(Napi::Env env, SocketContext* context, UniqueFd fd, const PeerCredentials& peer,
                         napi_value handlers);
  void shutDown() override;

 private:
  // Alive while the socket is open for JavaScript: events that find it gone are dropped.
  struct Link {
    SocketObject* object = nullptr;
    Napi::FunctionReference onData;
    Napi::FunctionReference onClose;
  };

  static void deliver(Napi::Env env, Link& link, Chunk& chunk);
  static void end(Napi::Env env, Link& link, const std::optional<Fault>& fault);
  // No event any more, the process is not kept alive, this object may be collected.
  void forget();
  void send(const Napi::CallbackInfo& info);
  Napi::Value pending(const Napi::CallbackInfo& info);
  void close(const Napi::CallbackInfo& info);

  SocketContext* context_ = nullptr;
  std::shared_ptr<StreamSocket> socket_;
  std::shared_ptr<Link> link_;
};

napi_value peerValue(napi_env env, const PeerCredentials& peer);
std::optional<UnixPath> pathProperty(napi_env env, napi_value object);
std::string display(const UnixPath& path);

// Adds listenUnix, connectUnix and socketPair.
void registerSockets(Napi::Env env, Napi::Object exports);

}  // namespace vu::bind
