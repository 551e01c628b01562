#include "socket.h"

#include <utility>

#include "convert.h"
#include "fd.h"
#include "listener.h"

namespace vu::bind {

Result<std::shared_ptr<Reactor>> SocketContext::start() {
  if (!reactor) {
    Result<std::shared_ptr<Reactor>> started = Reactor::start();
    if (!started) return started.fault();
    reactor = started.value();
  }
  return reactor;
}

void SocketContext::shutDown() {
  const std::set<LiveObject*> objects = open;
  for (LiveObject* object : objects) object->shutDown();
  if (reactor) reactor->stop();
  reactor.reset();
}

napi_value peerValue(napi_env env, const PeerCredentials& peer) {
  napi_value object = nullptr;
  napi_create_object(env, &object);
  napi_value pid = nullptr;
  napi_create_int32(env, peer.pid, &pid);
  napi_set_named_property(env, object, "pid", pid);
  napi_set_named_property(env, object, "uid", number(env, peer.uid));
  napi_set_named_property(env, object, "gid", number(env, peer.gid));
  return object;
}

std::optional<UnixPath> pathProperty(napi_env env, napi_value object) {
  const auto base = textProperty(env, object, "baseDirectory");
  if (!base) return std::nullopt;
  const auto relative = textProperty(env, object, "relativePath");
  if (!relative) return std::nullopt;
  return UnixPath{*base, *relative};
}

std::string display(const UnixPath& path) {
  return (path.baseDirectory == "/" ? "" : path.baseDirectory) + "/" + path.relativePath;
}

Napi::Function SocketObject::define(Napi::Env env) {
  return DefineClass(env, "FdSocket",
                     {InstanceMethod<&SocketObject::send>("send"), InstanceMethod<&SocketObject::close>("close"),
                      InstanceAccessor<&SocketObject::pending>("pendingBytes")});
}

SocketObject::~SocketObject() {
  if (context_ != nullptr) context_->open.erase(this);
  if (socket_ && link_) socket_->discard();
}

napi_value SocketObject::open(Napi::Env env, SocketContext* context, UniqueFd fd, const PeerCredentials& peer,
                              napi_value handlers) {
  const auto onData = handlerProperty(env, handlers, "onData");
  if (!onData) return nullptr;
  const auto onClose = handlerProperty(env, handlers, "onClose");
  if (!onClose) return nullptr;
  const auto reactor = context->start();
  if (!reactor) {
    throwFault(env, reactor.fault());
    return nullptr;
  }
  napi_value made = nullptr;
  if (napi_new_instance(env, context->socketClass.Value(), 0, nullptr, &made) != napi_ok) return nullptr;
  SocketObject* self = Unwrap(Napi::Object(env, made));
  auto link = std::make_shared<Link>();
  link->object = self;
  link->onData = Napi::Persistent(Napi::Function(env, *onData));
  link->onClose = Napi::Persistent(Napi::Function(env, *onClose));
  StreamSocket::Handlers native;
  native.onData = [weak = std::weak_ptr(link), events = context->events](Chunk chunk) {
    // Descriptors that nobody will hear of are closed with the chunk.
    auto boxed = std::make_shared<Chunk>(std::move(chunk));
    events->post([weak, boxed](Napi::Env inner) {
      if (const auto alive = weak.lock()) deliver(inner, *alive, *boxed);
    });
  };
  native.onEnd = [weak = std::weak_ptr(link), events = context->events](std::optional<Fault> fault) {
    events->post([weak, fault](Napi::Env inner) {
      if (const auto alive = weak.lock()) end(inner, *alive, fault);
    });
  };
  Result<std::shared_ptr<StreamSocket>> opened = StreamSocket::open(reactor.value(), std::move(fd), std::move(native));
  if (!opened) {
    throwFault(env, opened.fault());
    return nullptr;
  }
  self->context_ = context;
  self->socket_ = opened.value();
  self->link_ = link;
  napi_set_named_property(env, made, "peer", peerValue(env, peer));
  // Referenced while it is open: a socket without a variable still delivers, and keeps the process alive.
  self->Ref();
  context->open.insert(self);
  context->events->hold(env);
  return made;
}

void SocketObject::deliver(Napi::Env env, Link& link, Chunk& chunk) {
  SocketObject* const self = link.object;
  napi_value arguments[2] = {nullptr, nullptr};
  std::vector<napi_value> fds;
  for (UniqueFd& fd : chunk.fds) fds.push_back(Fd::wrap(env, std::move(fd)));
  arguments[1] = array(env, fds);
  if (napi_create_buffer_copy(env, chunk.bytes.size(), chunk.bytes.data(), nullptr, &arguments[0]) != napi_ok) return;
  const std::shared_ptr<StreamSocket> socket = self->socket_;
  callHandler(env, self->Value(), link.onData.Value(), 2, arguments);
  if (self->link_) socket->resume();
}

void SocketObject::end(Napi::Env env, Link& link, const std::optional<Fault>& fault) {
  SocketObject* const self = link.object;
  napi_value argument = nullptr;
  if (fault)
    argument = faultError(env, *fault);
  else
    napi_get_null(env, &argument);
  const napi_value receiver = self->Value();
  const napi_value handler = link.onClose.Value();
  self->socket_->close();
  self->forget();
  callHandler(env, receiver, handler, 1, &argument);
}

void SocketObject::forget() {
  if (!link_) return;
  link_.reset();
  context_->open.erase(this);
  context_->events->letGo(Env());
  Unref();
}

void SocketObject::shutDown() {
  if (socket_) socket_->discard();
  forget();
}

void SocketObject::send(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto bytes = toBytes(env, info[0], "bytes");
  if (!bytes) return;
  if (bytes->empty() || !socket_) {
    throwMisuse(env, "send: expected a socket, and bytes that are not empty");
    return;
  }
  const auto items = toArray(env, info[1], "fds");
  if (!items) return;
  if (items->size() > StreamSocket::kMaxSendFds) {
    throwMisuse(env, "fds: expected at most 8");
    return;
  }
  std::vector<int> fds;
  for (napi_value item : *items) {
    const auto fd = Fd::borrow(env, item, "fds");
    if (!fd) return;
    fds.push_back(*fd);
  }
  const Result<void> sent = socket_->send(bytes->data(), bytes->size(), fds);
  if (!sent) throwFault(env, sent.fault());
}

Napi::Value SocketObject::pending(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), socket_ ? static_cast<double>(socket_->pendingBytes()) : 0);
}

void SocketObject::close(const Napi::CallbackInfo& /*info*/) {
  if (!link_) return;
  socket_->close();
  forget();
}

namespace {

Napi::Value connectJs(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto path = pathProperty(env, info[0]);
  if (!path) return env.Undefined();
  for (const char* name : {"onData", "onClose"}) {
    if (!handlerProperty(env, info[1], name)) return env.Undefined();
  }
  Result<UniqueFd> fd = connectUnix(*path);
  if (!fd) {
    throwFault(env, fd.fault(), display(*path).c_str());
    return env.Undefined();
  }
  const Result<PeerCredentials> peer = peerOf(fd.value().get());
  if (!peer) {
    throwFault(env, peer.fault(), display(*path).c_str());
    return env.Undefined();
  }
  auto* context = static_cast<SocketContext*>(info.Data());
  const napi_value made = SocketObject::open(env, context, std::move(fd).value(), peer.value(), info[1]);
  return made == nullptr ? env.Undefined() : Napi::Value(env, made);
}

Napi::Value socketPairJs(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  for (const char* name : {"onData", "onClose"}) {
    if (!handlerProperty(env, info[0], name)) return env.Undefined();
  }
  Result<SocketPair> pair = socketPair();
  if (!pair) {
    throwFault(env, pair.fault());
    return env.Undefined();
  }
  auto [near, far] = std::move(pair).value();
  // As the kernel has it: whoever made the pair.
  const Result<PeerCredentials> peer = peerOf(near.get());
  if (!peer) {
    throwFault(env, peer.fault());
    return env.Undefined();
  }
  auto* context = static_cast<SocketContext*>(info.Data());
  const napi_value socket = SocketObject::open(env, context, std::move(near), peer.value(), info[0]);
  if (socket == nullptr) return env.Undefined();
  const Napi::Object made = Napi::Object::New(env);
  made.Set("socket", socket);
  made.Set("peer", Napi::Value(env, Fd::wrap(env, std::move(far))));
  return made;
}

}  // namespace

void registerSockets(Napi::Env env, Napi::Object exports) {
  auto* context = new SocketContext();
  context->events = Environment::of(env).events;
  context->socketClass = Napi::Persistent(SocketObject::define(env));
  context->incomingClass = Napi::Persistent(IncomingObject::define(env));
  context->listenerClass = Napi::Persistent(ListenerObject::define(env));
  for (auto* reference : {&context->socketClass, &context->incomingClass, &context->listenerClass}) {
    reference->SuppressDestruct();
  }
  Environment::of(env).add(Stage::kIo, context);
  Environment::of(env).startReactor = [context] { return context->start(); };
  exports.Set("listenUnix", Napi::Function::New(env, &ListenerObject::open, "listenUnix", context));
  exports.Set("connectUnix", Napi::Function::New(env, connectJs, "connectUnix", context));
  exports.Set("socketPair", Napi::Function::New(env, socketPairJs, "socketPair", context));
}

}  // namespace vu::bind
