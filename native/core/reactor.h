// One thread that waits for descriptors of control sockets. What happens on them is decided by their watchers.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>

#include "result.h"
#include "thread.h"
#include "unique_fd.h"

namespace vu {

// THREAD: reactor, for everything here.
class Watcher {
 public:
  virtual ~Watcher() = default;
  // `events` are EPOLL* bits. The descriptor is disarmed until rearm().
  virtual void onReady(uint32_t events) noexcept = 0;
  virtual void onTimer() noexcept {}
};

class Reactor {
 public:
  static Result<std::shared_ptr<Reactor>> start() noexcept;
  Reactor(const Reactor&) = delete;
  Reactor& operator=(const Reactor&) = delete;
  ~Reactor() { stop(); }

  // Watches a descriptor once for `events`. The watcher is kept alive until remove() or stop(). @return its id
  Result<uint64_t> add(int fd, uint32_t events, std::shared_ptr<Watcher> watcher) noexcept;
  // Watches again, from any thread. Harmless after remove().
  void rearm(uint64_t id, int fd, uint32_t events) noexcept;
  // Calls onTimer once, `delay` from now, unless the watcher is removed before. From any thread.
  void callLater(uint64_t id, std::chrono::milliseconds delay) noexcept;
  // After it returns no new onReady starts; one that runs may still be running.
  void remove(uint64_t id, int fd) noexcept;
  // Joins the thread and lets every watcher go. Idempotent; not from the reactor thread.
  void stop() noexcept;

 private:
  using Clock = std::chrono::steady_clock;

  Reactor() = default;
  void run() noexcept;
  void wake() noexcept;
  std::shared_ptr<Watcher> find(uint64_t id) noexcept;
  // Milliseconds until the next timer, rounded up; -1: none.
  int timeout() noexcept;
  // The watcher of one timer that is due, removed; nullptr: none is.
  std::shared_ptr<Watcher> takeDue() noexcept;

  UniqueFd epoll_;
  UniqueFd wake_;
  std::atomic<bool> stopping_{false};
  std::mutex mutex_;
  // LOCKS: mutex_, for the three below.
  uint64_t nextId_ = 1;
  std::map<uint64_t, std::shared_ptr<Watcher>> watchers_;
  std::multimap<Clock::time_point, uint64_t> timers_;
  Thread thread_;
};

}  // namespace vu
