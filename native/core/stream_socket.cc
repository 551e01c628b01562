#include "stream_socket.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <array>
#include <cstring>

namespace vu {
namespace {

constexpr size_t kMaxReceiveFds = 32;
constexpr std::chrono::milliseconds kStarvedPause{100};
constexpr uint32_t kPeerGone = EPOLLHUP | EPOLLERR;

// Descriptors that came with a message: all are owned before anything is judged.
std::vector<UniqueFd> takeFds(msghdr& message) noexcept {
  std::vector<UniqueFd> fds;
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof fd);
      fds.emplace_back(fd);
    }
  }
  return fds;
}

ssize_t sendOnce(int socket, const uint8_t* bytes, size_t length, const std::vector<int>& fds) noexcept {
  iovec part{const_cast<uint8_t*>(bytes), length};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * StreamSocket::kMaxSendFds)] = {};
  if (!fds.empty()) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(sizeof(int) * fds.size());
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int) * fds.size());
    std::memcpy(CMSG_DATA(header), fds.data(), sizeof(int) * fds.size());
  }
  ssize_t sent = 0;
  do {
    sent = ::sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  } while (sent < 0 && errno == EINTR);
  return sent;
}

std::vector<int> numbers(const std::vector<UniqueFd>& fds) noexcept {
  std::vector<int> result;
  result.reserve(fds.size());
  for (const UniqueFd& fd : fds) result.push_back(fd.get());
  return result;
}

}  // namespace

Result<std::shared_ptr<StreamSocket>> StreamSocket::open(const std::shared_ptr<Reactor>& reactor, UniqueFd fd,
                                                         Handlers handlers) noexcept {
  const int raw = fd.get();
  std::shared_ptr<StreamSocket> socket(new StreamSocket(reactor, std::move(fd), std::move(handlers)));
  const std::lock_guard lock(socket->mutex_);  // the first onReady must see the id
  Result<uint64_t> id = reactor->add(raw, EPOLLIN | EPOLLRDHUP, socket);
  if (!id) return id.fault();
  socket->id_ = id.value();
  return socket;
}

StreamSocket::~StreamSocket() = default;

uint32_t StreamSocket::interest() const noexcept {
  const bool reads = !paused_ && !closing_;
  // Always writable after a failed send: the next event comes at once and ends the socket.
  const bool writes = !queue_.empty() || (reads && sendFault_);
  return (reads ? EPOLLIN | EPOLLRDHUP : 0U) | (writes ? static_cast<uint32_t>(EPOLLOUT) : 0U);
}

void StreamSocket::rearm() noexcept {
  if (fd_ && !ended_) reactor_->rearm(id_, fd_.get(), interest());
}

void StreamSocket::resume() noexcept {
  const std::lock_guard lock(mutex_);
  paused_ = false;
  rearm();
}

size_t StreamSocket::pendingBytes() noexcept {
  const std::lock_guard lock(mutex_);
  return queuedBytes_;
}

Result<void> StreamSocket::send(const uint8_t* bytes, size_t length, const std::vector<int>& fds) noexcept {
  const std::lock_guard lock(mutex_);
  if (!fd_ || closing_) return Fault{EPIPE, "sendmsg"};
  if (sendFault_) return *sendFault_;
  if (fds.size() > kMaxSendFds) return Fault{EMSGSIZE, "sendmsg"};
  // Asked before the first byte is out: half a message would break the stream.
  if (queuedBytes_ + length > kQueueLimitBytes) return Fault{ENOBUFS, "sendmsg"};
  size_t sent = 0;
  if (queue_.empty()) {
    const ssize_t result = sendOnce(fd_.get(), bytes, length, fds);
    if (result < 0 && errno != EAGAIN) return lastFault("sendmsg");
    sent = result < 0 ? 0 : static_cast<size_t>(result);
    if (sent == length) return {};
  }
  Pending pending;
  pending.bytes.assign(bytes + sent, bytes + length);
  if (sent == 0) {
    for (const int fd : fds) {
      UniqueFd copy(::fcntl(fd, F_DUPFD_CLOEXEC, 3));
      if (!copy) return lastFault("fcntl F_DUPFD_CLOEXEC");
      pending.fds.push_back(std::move(copy));
    }
  }
  queuedBytes_ += pending.bytes.size();
  queue_.push_back(std::move(pending));
  rearm();
  return {};
}

void StreamSocket::flush() noexcept {
  while (!queue_.empty()) {
    Pending& first = queue_.front();
    const ssize_t sent =
        sendOnce(fd_.get(), first.bytes.data() + first.sent, first.bytes.size() - first.sent, numbers(first.fds));
    if (sent < 0) {
      if (errno == EAGAIN) return;
      sendFault_ = lastFault("sendmsg");
      queue_.clear();
      queuedBytes_ = 0;
      return;
    }
    first.fds.clear();  // they went with the first byte
    first.sent += static_cast<size_t>(sent);
    queuedBytes_ -= static_cast<size_t>(sent);
    if (first.sent == first.bytes.size()) queue_.pop_front();
  }
}

void StreamSocket::end(std::optional<Fault> fault) noexcept {
  ended_ = true;
  endFault_ = fault ? fault : sendFault_;
}

std::optional<Chunk> StreamSocket::receive() noexcept {
  std::array<uint8_t, kChunkBytes> bytes;
  iovec part{bytes.data(), bytes.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kMaxReceiveFds)];
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  // The kernel ends a read after the message that carried descriptors (af_unix.c, unix_stream_read_generic), so those
  // of two messages never mix.
  const ssize_t received = ::recvmsg(fd_.get(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (received == 0) {
    end(std::nullopt);
    return std::nullopt;
  }
  if (received < 0) {
    if (errno == EINTR) return std::nullopt;
    if (errno != EAGAIN)
      end(lastFault("recvmsg"));
    else if (sendFault_)
      end(sendFault_);
    return std::nullopt;
  }
  std::vector<UniqueFd> fds = takeFds(message);
  if ((message.msg_flags & MSG_CTRUNC) != 0) {
    // More than any message of a protocol of ours carries, or our own limit is reached: what came is closed here.
    end(Fault{EPROTO, "recvmsg, descriptors were cut off (MSG_CTRUNC)"});
    return std::nullopt;
  }
  return Chunk{std::vector<uint8_t>(bytes.data(), bytes.data() + received), std::move(fds)};
}

void StreamSocket::release() noexcept {
  if (!fd_) return;
  reactor_->remove(id_, fd_.get());
  fd_.reset();
  queue_.clear();
  queuedBytes_ = 0;
}

void StreamSocket::close() noexcept {
  const std::lock_guard lock(mutex_);
  if (closing_) return;
  closing_ = true;
  if (queue_.empty() || ended_) {
    release();
    return;
  }
  rearm();
  reactor_->callLater(id_, kCloseGrace);
}

void StreamSocket::discard() noexcept {
  const std::lock_guard lock(mutex_);
  closing_ = true;
  release();
}

void StreamSocket::onReady(uint32_t events) noexcept {
  std::optional<Chunk> chunk;
  std::optional<Fault> fault;
  {
    const std::lock_guard lock(mutex_);
    if (!fd_ || ended_) return;
    if ((events & (EPOLLOUT | kPeerGone)) != 0) flush();
    if (closing_) {
      if (queue_.empty())
        release();
      else
        rearm();
      return;
    }
    if (paused_) {
      // EPOLLHUP comes whether asked for or not: without something to write, resume() arms it again.
      if (!queue_.empty()) rearm();
      return;
    }
    if ((events & ~static_cast<uint32_t>(EPOLLOUT)) != 0 || sendFault_) chunk = receive();
    if (chunk)
      paused_ = true;
    else if (!ended_)
      rearm();
    if (!chunk && !ended_) return;
    fault = endFault_;
  }
  if (chunk)
    handlers_.onData(std::move(*chunk));
  else
    handlers_.onEnd(fault);
}

void StreamSocket::onTimer() noexcept {
  const std::lock_guard lock(mutex_);
  if (closing_) release();
}

Result<SocketPair> socketPair() noexcept {
  int ends[2] = {-1, -1};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) return lastFault("socketpair");
  return SocketPair{UniqueFd(ends[0]), UniqueFd(ends[1])};
}

Result<std::shared_ptr<ListenSocket>> ListenSocket::open(const std::shared_ptr<Reactor>& reactor, BoundSocket bound,
                                                         Handlers handlers) noexcept {
  std::shared_ptr<ListenSocket> socket(new ListenSocket(reactor, std::move(bound), std::move(handlers)));
  socket->reserve_ = UniqueFd(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  const std::lock_guard lock(socket->mutex_);
  Result<uint64_t> id = reactor->add(socket->bound_.fd.get(), EPOLLIN, socket);
  if (!id) {
    socket->bound_.unlinkIfOurs();
    return id.fault();
  }
  socket->id_ = id.value();
  return socket;
}

void ListenSocket::close() noexcept {
  const std::lock_guard lock(mutex_);
  if (!bound_.fd) return;
  reactor_->remove(id_, bound_.fd.get());
  bound_.fd.reset();
  bound_.unlinkIfOurs();
  bound_.directory.reset();
  reserve_.reset();
}

void ListenSocket::resume() noexcept {
  const std::lock_guard lock(mutex_);
  if (bound_.fd) reactor_->rearm(id_, bound_.fd.get(), EPOLLIN);
}

void ListenSocket::turnAway() noexcept {
  reserve_.reset();
  UniqueFd(::accept4(bound_.fd.get(), nullptr, nullptr, SOCK_CLOEXEC)).reset();
  reserve_ = UniqueFd(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  reactor_->callLater(id_, kStarvedPause);
}

void ListenSocket::onTimer() noexcept {
  const std::lock_guard lock(mutex_);
  if (!bound_.fd) return;
  if (!reserve_) reserve_ = UniqueFd(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  reactor_->rearm(id_, bound_.fd.get(), EPOLLIN);
}

void ListenSocket::onReady(uint32_t /*events*/) noexcept {
  UniqueFd accepted;
  PeerCredentials peer;
  std::optional<Fault> fault;
  {
    const std::lock_guard lock(mutex_);
    if (!bound_.fd) return;
    accepted = UniqueFd(::accept4(bound_.fd.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (accepted) {
      const Result<PeerCredentials> known = peerOf(accepted.get());
      if (known)
        peer = known.value();
      else
        fault = known.fault();
    } else if (errno == EMFILE || errno == ENFILE) {
      fault = lastFault("accept4");
      turnAway();
    } else if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
      fault = lastFault("accept4");
      reactor_->callLater(id_, kStarvedPause);
    } else {
      reactor_->rearm(id_, bound_.fd.get(), EPOLLIN);
    }
  }
  if (fault && accepted) {
    accepted.reset();
    resume();
  }
  if (fault)
    handlers_.onFault(*fault);
  else if (accepted)
    handlers_.onConnection(std::move(accepted), peer);
}

}  // namespace vu
