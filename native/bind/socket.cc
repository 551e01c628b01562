#include "socket.h"

#include <mutex>

#include "../core/stream_socket.h"
#include "convert.h"
#include "environment.h"
#include "fd.h"

namespace vu::bind {
namespace {

// What the sockets of one environment share. Kept by every object that uses it, so that it outlives them.
struct SocketContext : LiveObject {
  std::shared_ptr<EventPort> events;
  std::shared_ptr<Reactor> reactor;
  Napi::FunctionReference socketClass;
  Napi::FunctionReference incomingClass;
  Napi::FunctionReference listenerClass;

  // The thread starts with the first socket.
  Result<std::shared_ptr<Reactor>> start() {
    if (!reactor) {
      Result<std::shared_ptr<Reactor>> started = Reactor::start();
      if (!started) return started.fault();
      reactor = started.value();
    }
    return reactor;
  }
  void shutDown() override {
    if (reactor) reactor->stop();
  }
};

SocketContext* contextOf(const Napi::CallbackInfo& info) { return static_cast<SocketContext*>(info.Data()); }

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

std::optional<napi_value> handlerProperty(napi_env env, napi_value object, const char* name) {
  const auto value = property(env, object, name);
  if (!value) return std::nullopt;
  napi_valuetype type = napi_undefined;
  if (napi_typeof(env, *value, &type) != napi_ok || type != napi_function) return wrongType(env, name, "a function");
  return value;
}

std::optional<UnixPath> pathProperty(napi_env env, napi_value object) {
  const auto base = textProperty(env, object, "baseDirectory");
  if (!base) return std::nullopt;
  const auto relative = textProperty(env, object, "relativePath");
  if (!relative) return std::nullopt;
  return UnixPath{*base, *relative};
}

std::string display(const UnixPath& path) { return path.baseDirectory + "/" + path.relativePath; }

// FdSocket. The native socket's handlers hold the JS handlers through `Link`, which dies on the JS thread only.
class SocketObject : public Napi::ObjectWrap<SocketObject> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "FdSocket",
                       {InstanceMethod<&SocketObject::send>("send"), InstanceMethod<&SocketObject::closeJs>("close"),
                        InstanceAccessor<&SocketObject::pending>("pendingBytes")});
  }
  explicit SocketObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<SocketObject>(info) {}
  ~SocketObject() override {
    if (socket_) socket_->discard();
    if (link_) link_->object = nullptr;
  }

  // Takes the descriptor; nullptr with a thrown error on failure.
  static napi_value open(Napi::Env env, SocketContext* context, UniqueFd fd, const PeerCredentials& peer, napi_value handlers) {
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
    link->events = context->events;
    link->onData = Napi::Persistent(Napi::Function(env, *onData));
    link->onClose = Napi::Persistent(Napi::Function(env, *onClose));
    StreamSocket::Handlers native;
    native.onData = [weak = std::weak_ptr(link), events = context->events](Chunk chunk) {
      // Descriptors that nobody will hear of are closed with the chunk.
      auto boxed = std::make_shared<Chunk>(std::move(chunk));
      events->post([weak, boxed](Napi::Env inner) {
        if (const auto alive = weak.lock()) SocketObject::deliver(inner, alive, *boxed);
      });
    };
    native.onEnd = [weak = std::weak_ptr(link), events = context->events](std::optional<Fault> fault) {
      events->post([weak, fault](Napi::Env inner) {
        if (const auto alive = weak.lock()) SocketObject::end(inner, alive, fault);
      });
    };
    Result<std::shared_ptr<StreamSocket>> opened = StreamSocket::open(reactor.value(), std::move(fd), std::move(native));
    if (!opened) {
      throwFault(env, opened.fault());
      return nullptr;
    }
    self->socket_ = opened.value();
    self->link_ = link;
    napi_set_named_property(env, made, "peer", peerValue(env, peer));
    // Referenced while it is open: a socket without a variable still delivers, and keeps the process alive.
    self->Ref();
    link->held = true;
    context->events->hold(env);
    return made;
  }

 private:
  struct Link {
    SocketObject* object = nullptr;
    std::shared_ptr<EventPort> events;
    Napi::FunctionReference onData;
    Napi::FunctionReference onClose;
    bool held = false;
    bool closed = false;
  };

  static void deliver(Napi::Env env, const std::shared_ptr<Link>& link, Chunk& chunk) {
    if (link->closed || link->object == nullptr) return;
    napi_value arguments[2] = {nullptr, nullptr};
    napi_create_buffer_copy(env, chunk.bytes.size(), chunk.bytes.data(), nullptr, &arguments[0]);
    std::vector<napi_value> fds;
    for (UniqueFd& fd : chunk.fds) fds.push_back(Fd::wrap(env, std::move(fd)));
    arguments[1] = array(env, fds);
    const std::shared_ptr<StreamSocket> socket = link->object->socket_;
    callHandler(env, link->object->Value(), link->onData.Value(), 2, arguments);
    if (!link->closed) socket->resume();
  }

  static void end(Napi::Env env, const std::shared_ptr<Link>& link, const std::optional<Fault>& fault) {
    if (link->closed || link->object == nullptr) return;
    napi_value argument = nullptr;
    if (fault) argument = faultError(env, *fault);
    else napi_get_null(env, &argument);
    const napi_value receiver = link->object->Value();
    const napi_value handler = link->onClose.Value();
    link->object->finish(env);
    callHandler(env, receiver, handler, 1, &argument);
  }

  void finish(Napi::Env env) {
    if (!link_ || link_->closed) return;
    link_->closed = true;
    socket_->close();
    if (link_->held) {
      link_->held = false;
      link_->events->letGo(env);
      Unref();
    }
  }

  void send(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    bool typed = false;
    if (napi_is_typedarray(env, info[0], &typed) != napi_ok || !typed) {
      throwMisuse(env, "send: expected bytes to be a Uint8Array");
      return;
    }
    napi_typedarray_type type{};
    size_t length = 0;
    void* data = nullptr;
    napi_get_typedarray_info(env, info[0], &type, &length, &data, nullptr, nullptr);
    const auto items = toArray(env, info[1], "fds");
    if (!items) return;
    std::vector<int> fds;
    for (napi_value item : *items) {
      const auto fd = Fd::borrow(env, item, "fds");
      if (!fd) return;
      fds.push_back(*fd);
    }
    if (type != napi_uint8_array || length == 0 || !socket_) {
      throwMisuse(env, "send: expected bytes to be a Uint8Array that is not empty");
      return;
    }
    const Result<void> sent = socket_->send(static_cast<const uint8_t*>(data), length, fds);
    if (!sent) throwFault(env, sent.fault());
  }

  Napi::Value pending(const Napi::CallbackInfo& info) {
    return Napi::Number::New(info.Env(), socket_ ? static_cast<double>(socket_->pendingBytes()) : 0);
  }

  void closeJs(const Napi::CallbackInfo& info) { finish(info.Env()); }

  std::shared_ptr<StreamSocket> socket_;
  std::shared_ptr<Link> link_;
};

class IncomingObject : public Napi::ObjectWrap<IncomingObject> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "IncomingSocket",
                       {InstanceMethod<&IncomingObject::accept>("accept"), InstanceMethod<&IncomingObject::refuse>("refuse")});
  }
  explicit IncomingObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<IncomingObject>(info) {}

  static napi_value wrap(Napi::Env env, SocketContext* context, UniqueFd fd, const PeerCredentials& peer) {
    napi_value made = nullptr;
    if (napi_new_instance(env, context->incomingClass.Value(), 0, nullptr, &made) != napi_ok) return nullptr;
    IncomingObject* self = Unwrap(Napi::Object(env, made));
    self->context_ = context;
    self->fd_ = std::move(fd);
    self->peer_ = peer;
    napi_set_named_property(env, made, "peer", peerValue(env, peer));
    return made;
  }
  static void drop(Napi::Env env, napi_value value) { Unwrap(Napi::Object(env, value))->fd_.reset(); }

 private:
  Napi::Value accept(const Napi::CallbackInfo& info) {
    if (!fd_) {
      throwMisuse(info.Env(), "accept: this connection was accepted or refused already");
      return info.Env().Undefined();
    }
    const napi_value made = SocketObject::open(info.Env(), context_, std::move(fd_), peer_, info[0]);
    return made == nullptr ? info.Env().Undefined() : Napi::Value(info.Env(), made);
  }
  void refuse(const Napi::CallbackInfo& /*info*/) { fd_.reset(); }

  SocketContext* context_ = nullptr;
  UniqueFd fd_;
  PeerCredentials peer_;
};

class ListenerObject : public Napi::ObjectWrap<ListenerObject> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "Listener", {InstanceMethod<&ListenerObject::closeJs>("close")});
  }
  explicit ListenerObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<ListenerObject>(info) {}
  ~ListenerObject() override {
    if (socket_) socket_->close();
  }

  static Napi::Value open(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    SocketContext* context = contextOf(info);
    const auto pathValue = property(env, info[0], "path");
    if (!pathValue) return env.Undefined();
    const auto path = pathProperty(env, *pathValue);
    if (!path) return env.Undefined();
    const auto mode = uint32Property(env, info[0], "mode");
    if (!mode) return env.Undefined();
    const auto backlog = uint32Property(env, info[0], "backlog");
    if (!backlog) return env.Undefined();
    const auto groupValue = property(env, info[0], "groupId");
    if (!groupValue) return env.Undefined();
    std::optional<gid_t> group;
    napi_valuetype groupType = napi_undefined;
    napi_typeof(env, *groupValue, &groupType);
    if (groupType != napi_null) {
      const auto number = toUint32(env, *groupValue, "groupId");
      if (!number) return env.Undefined();
      group = *number;
    }
    const auto onConnection = handlerProperty(env, info[1], "onConnection");
    if (!onConnection) return env.Undefined();
    const auto onFault = handlerProperty(env, info[1], "onFault");
    if (!onFault) return env.Undefined();
    const auto reactor = context->start();
    if (!reactor) {
      throwFault(env, reactor.fault());
      return env.Undefined();
    }
    Result<BoundSocket> bound = listenUnix(*path, *mode, group, static_cast<int>(*backlog));
    if (!bound) {
      throwFault(env, bound.fault(), display(*path).c_str());
      return env.Undefined();
    }
    auto link = std::make_shared<Link>();
    link->context = context;
    link->onConnection = Napi::Persistent(Napi::Function(env, *onConnection));
    link->onFault = Napi::Persistent(Napi::Function(env, *onFault));
    ListenSocket::Handlers native;
    native.onConnection = [weak = std::weak_ptr(link), events = context->events](UniqueFd fd, PeerCredentials peer) {
      auto boxed = std::make_shared<UniqueFd>(std::move(fd));
      events->post([weak, boxed, peer](Napi::Env inner) {
        if (const auto alive = weak.lock()) ListenerObject::connected(inner, *alive, std::move(*boxed), peer);
      });
    };
    native.onFault = [weak = std::weak_ptr(link), events = context->events](Fault fault) {
      events->post([weak, fault](Napi::Env inner) {
        const auto alive = weak.lock();
        if (!alive || alive->closed) return;
        const napi_value error = faultError(inner, fault);
        callHandler(inner, inner.Global(), alive->onFault.Value(), 1, &error);
      });
    };
    Result<std::shared_ptr<ListenSocket>> opened =
        ListenSocket::open(reactor.value(), std::move(bound).value(), std::move(native));
    if (!opened) {
      throwFault(env, opened.fault(), display(*path).c_str());
      return env.Undefined();
    }
    napi_value made = nullptr;
    if (napi_new_instance(env, context->listenerClass.Value(), 0, nullptr, &made) != napi_ok) return env.Undefined();
    ListenerObject* self = Unwrap(Napi::Object(env, made));
    self->socket_ = opened.value();
    self->link_ = link;
    self->Ref();
    context->events->hold(env);
    return Napi::Value(env, made);
  }

 private:
  struct Link {
    SocketContext* context = nullptr;
    Napi::FunctionReference onConnection;
    Napi::FunctionReference onFault;
    bool closed = false;
  };

  static void connected(Napi::Env env, Link& link, UniqueFd fd, const PeerCredentials& peer) {
    if (link.closed) return;
    const napi_value incoming = IncomingObject::wrap(env, link.context, std::move(fd), peer);
    if (incoming == nullptr) return;
    callHandler(env, env.Global(), link.onConnection.Value(), 1, &incoming);
    IncomingObject::drop(env, incoming);
  }

  void closeJs(const Napi::CallbackInfo& info) {
    if (!link_ || link_->closed) return;
    link_->closed = true;
    socket_->close();
    link_->context->events->letGo(info.Env());
    Unref();
  }

  std::shared_ptr<ListenSocket> socket_;
  std::shared_ptr<Link> link_;
};

Napi::Value connectJs(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto path = pathProperty(env, info[0]);
  if (!path) return env.Undefined();
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
  const napi_value made = SocketObject::open(env, contextOf(info), std::move(fd).value(), peer.value(), info[1]);
  return made == nullptr ? env.Undefined() : Napi::Value(env, made);
}

}  // namespace

void registerSockets(Napi::Env env, Napi::Object exports) {
  // Lives as long as the addon's environment: objects may be finalized after everything else. Never freed, on purpose.
  auto* context = new SocketContext();
  context->events = Environment::of(env).events;
  context->socketClass = Napi::Persistent(SocketObject::define(env));
  context->incomingClass = Napi::Persistent(IncomingObject::define(env));
  context->listenerClass = Napi::Persistent(ListenerObject::define(env));
  for (auto* reference : {&context->socketClass, &context->incomingClass, &context->listenerClass}) reference->SuppressDestruct();
  Environment::of(env).add(Stage::kIo, context);
  exports.Set("listenUnix", Napi::Function::New(env, &ListenerObject::open, "listenUnix", context));
  exports.Set("connectUnix", Napi::Function::New(env, connectJs, "connectUnix", context));
}

}  // namespace vu::bind
