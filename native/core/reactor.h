// One thread that waits for descriptors of control sockets. What happens on them is decided by their watchers.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <thread>

#include "result.h"
#include "unique_fd.h"

namespace vu {

// THREAD: reactor, for onReady.
class Watcher {
 public:
  virtual ~Watcher() = default;
  // `events` are EPOLL* bits. The descriptor is disarmed until rearm().
  virtual void onReady(uint32_t events) noexcept = 0;
};

class Reactor {
 public:
  static Result<std::shared_ptr<Reactor>> start() noexcept;
  Reactor(const Reactor&) = delete;
  Reactor& operator=(const Reactor&) = delete;
  ~Reactor() { stop(); }

  // Watches a descriptor once for `events`. The watcher is kept alive until remove(). @return its id
  Result<uint64_t> add(int fd, uint32_t events, std::shared_ptr<Watcher> watcher) noexcept;
  // Watches again, from any thread. Harmless after remove().
  void rearm(uint64_t id, int fd, uint32_t events) noexcept;
  // After it returns no new onReady starts; one that runs may still be running.
  void remove(uint64_t id, int fd) noexcept;
  // Joins the thread. Idempotent; not from the reactor thread.
  void stop() noexcept;

 private:
  Reactor() = default;
  void run() noexcept;

  UniqueFd epoll_;
  UniqueFd wake_;
  std::atomic<bool> stopping_{false};
  std::mutex mutex_;
  uint64_t nextId_ = 1;
  std::map<uint64_t, std::shared_ptr<Watcher>> watchers_;
  std::thread thread_;
};

}  // namespace vu
