#include "listener.h"

#include "convert.h"

namespace vu::bind {
namespace {

constexpr uint32_t kPermissionBits = 0777;
constexpr uint32_t kMaxBacklog = 65535;

struct ListenRequest {
  UnixPath path;
  mode_t mode = 0;
  std::optional<gid_t> group;
  int backlog = 0;
};

std::optional<ListenRequest> toRequest(napi_env env, napi_value object) {
  ListenRequest request;
  const auto pathValue = property(env, object, "path");
  if (!pathValue) return std::nullopt;
  const auto path = pathProperty(env, *pathValue);
  if (!path) return std::nullopt;
  request.path = *path;
  const auto mode = uint32Property(env, object, "mode");
  if (!mode) return std::nullopt;
  if (*mode > kPermissionBits) return wrongType(env, "mode", "permission bits, 0..0o777");
  request.mode = *mode;
  const auto backlog = uint32Property(env, object, "backlog");
  if (!backlog) return std::nullopt;
  if (*backlog > kMaxBacklog) return wrongType(env, "backlog", "0..65535");
  request.backlog = static_cast<int>(*backlog);
  const auto group = property(env, object, "groupId");
  if (!group) return std::nullopt;
  napi_valuetype type = napi_undefined;
  napi_typeof(env, *group, &type);
  if (type != napi_null) {
    const auto id = toUint32(env, *group, "groupId");
    if (!id) return std::nullopt;
    request.group = *id;
  }
  return request;
}

}  // namespace

Napi::Function IncomingObject::define(Napi::Env env) {
  return DefineClass(
      env, "IncomingSocket",
      {InstanceMethod<&IncomingObject::accept>("accept"), InstanceMethod<&IncomingObject::refuse>("refuse")});
}

napi_value IncomingObject::wrap(Napi::Env env, SocketContext* context, UniqueFd fd, const PeerCredentials& peer) {
  napi_value made = nullptr;
  if (napi_new_instance(env, context->incomingClass.Value(), 0, nullptr, &made) != napi_ok) return nullptr;
  IncomingObject* self = Unwrap(Napi::Object(env, made));
  self->context_ = context;
  self->fd_ = std::move(fd);
  self->peer_ = peer;
  napi_set_named_property(env, made, "peer", peerValue(env, peer));
  return made;
}

void IncomingObject::drop(Napi::Env env, napi_value value) { Unwrap(Napi::Object(env, value))->fd_.reset(); }

Napi::Value IncomingObject::accept(const Napi::CallbackInfo& info) {
  if (!fd_) {
    throwMisuse(info.Env(), "accept: this connection was accepted or refused already, or onConnection has returned");
    return info.Env().Undefined();
  }
  const napi_value made = SocketObject::open(info.Env(), context_, std::move(fd_), peer_, info[0]);
  return made == nullptr ? info.Env().Undefined() : Napi::Value(info.Env(), made);
}

void IncomingObject::refuse(const Napi::CallbackInfo& /*info*/) { fd_.reset(); }

Napi::Function ListenerObject::define(Napi::Env env) {
  return DefineClass(env, "Listener", {InstanceMethod<&ListenerObject::close>("close")});
}

ListenerObject::~ListenerObject() {
  if (context_ != nullptr) context_->open.erase(this);
  if (socket_) socket_->close();
}

Napi::Value ListenerObject::open(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  auto* context = static_cast<SocketContext*>(info.Data());
  const auto request = toRequest(env, info[0]);
  if (!request) return env.Undefined();
  const auto onConnection = handlerProperty(env, info[1], "onConnection");
  if (!onConnection) return env.Undefined();
  const auto onFault = handlerProperty(env, info[1], "onFault");
  if (!onFault) return env.Undefined();
  const auto reactor = context->start();
  if (!reactor) {
    throwFault(env, reactor.fault());
    return env.Undefined();
  }
  Result<BoundSocket> bound = listenUnix(request->path, request->mode, request->group, request->backlog);
  if (!bound) {
    throwFault(env, bound.fault(), display(request->path).c_str());
    return env.Undefined();
  }
  auto link = std::make_shared<Link>();
  link->onConnection = Napi::Persistent(Napi::Function(env, *onConnection));
  link->onFault = Napi::Persistent(Napi::Function(env, *onFault));
  ListenSocket::Handlers native;
  native.onConnection = [weak = std::weak_ptr(link), events = context->events](UniqueFd fd, PeerCredentials peer) {
    auto boxed = std::make_shared<UniqueFd>(std::move(fd));
    events->post([weak, boxed, peer](Napi::Env inner) {
      if (const auto alive = weak.lock()) connected(inner, *alive, std::move(*boxed), peer);
    });
  };
  native.onFault = [weak = std::weak_ptr(link), events = context->events](Fault fault) {
    events->post([weak, fault](Napi::Env inner) {
      const auto alive = weak.lock();
      if (!alive) return;
      const napi_value error = faultError(inner, fault);
      callHandler(inner, alive->object->Value(), alive->onFault.Value(), 1, &error);
    });
  };
  Result<std::shared_ptr<ListenSocket>> opened =
      ListenSocket::open(reactor.value(), std::move(bound).value(), std::move(native));
  if (!opened) {
    throwFault(env, opened.fault(), display(request->path).c_str());
    return env.Undefined();
  }
  napi_value made = nullptr;
  if (napi_new_instance(env, context->listenerClass.Value(), 0, nullptr, &made) != napi_ok) {
    opened.value()->close();
    return env.Undefined();
  }
  ListenerObject* self = Unwrap(Napi::Object(env, made));
  link->object = self;
  self->context_ = context;
  self->socket_ = opened.value();
  self->link_ = link;
  self->Ref();
  context->open.insert(self);
  context->events->hold(env);
  return Napi::Value(env, made);
}

void ListenerObject::connected(Napi::Env env, Link& link, UniqueFd fd, const PeerCredentials& peer) {
  ListenerObject* const self = link.object;
  const std::shared_ptr<ListenSocket> socket = self->socket_;
  const napi_value incoming = IncomingObject::wrap(env, self->context_, std::move(fd), peer);
  if (incoming == nullptr) return;
  callHandler(env, self->Value(), link.onConnection.Value(), 1, &incoming);
  IncomingObject::drop(env, incoming);
  if (self->link_) socket->resume();
}

void ListenerObject::shutDown() {
  if (!link_) return;
  link_.reset();
  socket_->close();
  context_->open.erase(this);
  context_->events->letGo(Env());
  Unref();
}

void ListenerObject::close(const Napi::CallbackInfo& /*info*/) { shutDown(); }

}  // namespace vu::bind
