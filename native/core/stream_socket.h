// A connected unix stream socket that carries descriptors, and a listening one.
//
// How it works. The reactor waits for one readiness at a time per socket. When data is there, one recvmsg takes at most
// 64 KiB with the descriptors that came along and hands them over; the next is taken only after resume(), so that a
// flooding peer fills its own socket buffer and nothing else. A listener hands over one connection at a time in the
// same way. Sending is done by the caller's thread; what the kernel does not take is queued and sent by the reactor.
#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "reactor.h"
#include "unix_path.h"

namespace vu {

struct Chunk {
  std::vector<uint8_t> bytes;
  std::vector<UniqueFd> fds;
};

class StreamSocket : public Watcher, public std::enable_shared_from_this<StreamSocket> {
 public:
  // THREAD: reactor. onEnd comes once, last; nothing after close().
  struct Handlers {
    std::function<void(Chunk)> onData;
    std::function<void(std::optional<Fault>)> onEnd;
  };

  static constexpr size_t kChunkBytes = 64 << 10;
  static constexpr size_t kQueueLimitBytes = 8 << 20;
  static constexpr size_t kMaxSendFds = 8;
  // How long close() lets the peer take what is queued.
  static constexpr std::chrono::milliseconds kCloseGrace{1000};

  static Result<std::shared_ptr<StreamSocket>> open(const std::shared_ptr<Reactor>& reactor, UniqueFd fd,
                                                    Handlers handlers) noexcept;
  ~StreamSocket() override;

  // Reads again after onData.
  void resume() noexcept;
  // One message; `fds` travel with its first byte (borrowed: duplicated when the message must wait). All or nothing:
  // ENOBUFS leaves the stream as it was.
  Result<void> send(const uint8_t* bytes, size_t length, const std::vector<int>& fds) noexcept;
  size_t pendingBytes() noexcept;
  // Queued bytes are still sent by the reactor, for kCloseGrace at most, then the descriptor goes. No handler is called
  // any more. Idempotent.
  void close() noexcept;
  // At once, whatever is queued.
  void discard() noexcept;

  void onReady(uint32_t events) noexcept override;
  void onTimer() noexcept override;

 private:
  struct Pending {
    std::vector<uint8_t> bytes;
    size_t sent = 0;
    std::vector<UniqueFd> fds;
  };

  StreamSocket(std::shared_ptr<Reactor> reactor, UniqueFd fd, Handlers handlers) noexcept
      : reactor_(std::move(reactor)), fd_(std::move(fd)), handlers_(std::move(handlers)) {}
  // LOCKS: mutex_ held, for all below.
  uint32_t interest() const noexcept;
  void rearm() noexcept;
  void flush() noexcept;
  // Takes one chunk. Sets ended_ and endFault_ when there will be no more.
  std::optional<Chunk> receive() noexcept;
  void end(std::optional<Fault> fault) noexcept;
  void release() noexcept;

  std::shared_ptr<Reactor> reactor_;
  std::mutex mutex_;
  UniqueFd fd_;
  uint64_t id_ = 0;
  Handlers handlers_;
  std::deque<Pending> queue_;
  size_t queuedBytes_ = 0;
  // The peer takes no more bytes. What it has sent is still read, then this is the end.
  std::optional<Fault> sendFault_;
  std::optional<Fault> endFault_;
  bool paused_ = false;
  bool closing_ = false;
  bool ended_ = false;
};

// Two sockets that are connected to each other, close-on-exec. Both block: StreamSocket asks the kernel not to on each
// call, and the flag of the other end belongs to whom it is given.
struct SocketPair {
  UniqueFd near;
  UniqueFd far;
};
Result<SocketPair> socketPair() noexcept;

class ListenSocket : public Watcher {
 public:
  // THREAD: reactor. After onConnection nothing is accepted until resume().
  struct Handlers {
    std::function<void(UniqueFd, PeerCredentials)> onConnection;
    // EMFILE, ENFILE: the peer was turned away. It goes on by itself.
    std::function<void(Fault)> onFault;
  };

  static Result<std::shared_ptr<ListenSocket>> open(const std::shared_ptr<Reactor>& reactor, BoundSocket bound,
                                                    Handlers handlers) noexcept;
  ~ListenSocket() override { close(); }
  // Accepts again after onConnection.
  void resume() noexcept;
  // Stops listening and unlinks the socket file if it is still ours. Idempotent.
  void close() noexcept;
  void onReady(uint32_t events) noexcept override;
  void onTimer() noexcept override;

 private:
  ListenSocket(std::shared_ptr<Reactor> reactor, BoundSocket bound, Handlers handlers) noexcept
      : reactor_(std::move(reactor)), bound_(std::move(bound)), handlers_(std::move(handlers)) {}
  // LOCKS: mutex_ held. Out of descriptors: turns one peer away, then waits a moment, since the rest of the backlog
  // would wake the reactor for ever.
  void turnAway() noexcept;

  std::shared_ptr<Reactor> reactor_;
  std::mutex mutex_;
  BoundSocket bound_;
  Handlers handlers_;
  uint64_t id_ = 0;
  // Given up for a moment when descriptors run out, so that a peer can be turned away instead of left hanging.
  UniqueFd reserve_;
};

}  // namespace vu
