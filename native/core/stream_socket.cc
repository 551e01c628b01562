#include "stream_socket.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>

namespace vu {
namespace {

constexpr size_t kMaxReceiveFds = 32;
constexpr int kAcceptsPerWake = 64;

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
  for (const UniqueFd& fd : fds) result.push_back(fd.get());
  return result;
}

}  // namespace

Result<std::shared_ptr<StreamSocket>> StreamSocket::open(std::shared_ptr<Reactor> reactor, UniqueFd fd,
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
  return (paused_ || closing_ ? 0U : EPOLLIN | EPOLLRDHUP) | (queue_.empty() ? 0U : static_cast<uint32_t>(EPOLLOUT));
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
  if (fds.size() > kMaxSendFds) return Fault{EMSGSIZE, "sendmsg"};
  size_t sent = 0;
  if (queue_.empty()) {
    const ssize_t result = sendOnce(fd_.get(), bytes, length, fds);
    if (result < 0 && errno != EAGAIN) return lastFault("sendmsg");
    sent = result < 0 ? 0 : static_cast<size_t>(result);
    if (sent == length) return {};
  }
  if (queuedBytes_ + length - sent > kQueueLimitBytes) return Fault{ENOBUFS, "sendmsg"};
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

std::optional<Fault> StreamSocket::flush() noexcept {
  while (!queue_.empty()) {
    Pending& first = queue_.front();
    const ssize_t sent =
        sendOnce(fd_.get(), first.bytes.data() + first.sent, first.bytes.size() - first.sent, numbers(first.fds));
    if (sent < 0) return errno == EAGAIN ? std::nullopt : std::optional<Fault>(lastFault("sendmsg"));
    first.fds.clear();  // they went with the first byte
    first.sent += static_cast<size_t>(sent);
    queuedBytes_ -= static_cast<size_t>(sent);
    if (first.sent == first.bytes.size()) queue_.pop_front();
  }
  return std::nullopt;
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
  closing_ = true;
  if (queue_.empty() || ended_) release();
  else rearm();
}

void StreamSocket::discard() noexcept {
  const std::lock_guard lock(mutex_);
  closing_ = true;
  release();
}

void StreamSocket::onReady(uint32_t events) noexcept {
  const std::shared_ptr<StreamSocket> self = shared_from_this();  // release() may drop the last other owner
  std::optional<Chunk> chunk;
  bool end = false;
  std::optional<Fault> fault;
  {
    const std::lock_guard lock(mutex_);
    if (!fd_ || ended_) return;
    if ((events & EPOLLOUT) != 0) fault = flush();
    if (closing_) {
      if (queue_.empty() || fault || (events & (EPOLLHUP | EPOLLERR)) != 0) release();
      else rearm();
      return;
    }
    if (fault) {
      end = true;
    } else if ((events & ~static_cast<uint32_t>(EPOLLOUT)) != 0 && !paused_) {
      std::vector<uint8_t> bytes(kChunkBytes);
      iovec part{bytes.data(), bytes.size()};
      alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kMaxReceiveFds)];
      msghdr message{};
      message.msg_iov = &part;
      message.msg_iovlen = 1;
      message.msg_control = control;
      message.msg_controllen = sizeof control;
      const ssize_t received = ::recvmsg(fd_.get(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
      if (received > 0) {
        std::vector<UniqueFd> fds = takeFds(message);
        if ((message.msg_flags & MSG_CTRUNC) != 0) {
          fault = Fault{EPROTO, "recvmsg: more descriptors than any message carries"};
          end = true;
        } else {
          bytes.resize(static_cast<size_t>(received));
          chunk = Chunk{std::move(bytes), std::move(fds)};
          paused_ = true;
        }
      } else if (received == 0) {
        end = true;
      } else if (errno != EAGAIN && errno != EINTR) {
        fault = lastFault("recvmsg");
        end = true;
      }
    }
    if (end) ended_ = true;
    else if (!chunk) rearm();
  }
  if (chunk) handlers_.onData(std::move(*chunk));
  else if (end) handlers_.onEnd(fault);
}

Result<std::shared_ptr<ListenSocket>> ListenSocket::open(std::shared_ptr<Reactor> reactor, BoundSocket bound,
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
}

void ListenSocket::onReady(uint32_t /*events*/) noexcept {
  std::vector<std::pair<UniqueFd, PeerCredentials>> accepted;
  std::optional<Fault> fault;
  {
    const std::lock_guard lock(mutex_);
    if (!bound_.fd) return;
    for (int i = 0; i < kAcceptsPerWake; ++i) {
      UniqueFd fd(::accept4(bound_.fd.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
      if (!fd) {
        if (errno == EMFILE || errno == ENFILE) {
          fault = lastFault("accept4");
          reserve_.reset();
          UniqueFd(::accept4(bound_.fd.get(), nullptr, nullptr, SOCK_CLOEXEC)).reset();
          reserve_ = UniqueFd(::open("/dev/null", O_RDONLY | O_CLOEXEC));
        } else if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
          fault = lastFault("accept4");
        }
        break;
      }
      const Result<PeerCredentials> peer = peerOf(fd.get());
      if (peer) accepted.emplace_back(std::move(fd), peer.value());
    }
    reactor_->rearm(id_, bound_.fd.get(), EPOLLIN);
  }
  for (auto& [fd, peer] : accepted) handlers_.onConnection(std::move(fd), peer);
  if (fault) handlers_.onFault(*fault);
}

}  // namespace vu
