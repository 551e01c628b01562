// Kicks of one pump thread, none of which can hold it up for long.
//
// A kick eventfd is one open file with the backend's: it can clear O_NONBLOCK and fill the counter, and our next write
// would never return. Nothing helps beforehand: between a look and the write is a gap, and eventfds know no RWF_NOWAIT.
// So a second thread looks every now and then while kicks are made, and interrupts one that is under way. That does not
// harm an honest one: a write to an eventfd that does not block knows no EINTR. While the pump sleeps so does the
// watch.
//
// The backend can also hang so many epoll watches on the file that a write wakes them for milliseconds, which nothing
// interrupts. So kicks that follow a look which found one under way are measured, by the thread's own time.
#pragma once

#include <pthread.h>

#include <atomic>
#include <cstdint>
#include <memory>

#include "result.h"
#include "thread.h"
#include "unique_fd.h"

namespace vu {

// kMade: nobody measured it.
enum class Kicked : uint8_t { kMade, kQuick, kSlow, kBlocked };

class Kicker {
 public:
  // Errors: EMFILE, EAGAIN (no more threads), …
  static Result<std::unique_ptr<Kicker>> create() noexcept;
  ~Kicker() { stop(); }
  Kicker(const Kicker&) = delete;
  Kicker& operator=(const Kicker&) = delete;

  // On the pump thread, before its first kick.
  void enter() noexcept;
  // On the pump thread. kBlocked: the write was interrupted, which no honest backend causes. kSlow: it took long; one
  // may be the hypervisor's doing, several in succession of one ring are the backend's.
  Kicked kick(int fd) noexcept;
  // On the pump thread: there may be no kick for long.
  void rest() noexcept;
  // Ends and joins the watch, when the pump thread has ended. Idempotent.
  void stop() noexcept;

 private:
  explicit Kicker(UniqueFd wake) noexcept : wake_(std::move(wake)) {}
  void rouse() noexcept;
  bool measures() noexcept;
  void watch() noexcept;
  void wait(int timeoutMs) noexcept;
  void wake() noexcept;

  UniqueFd wake_;
  pthread_t pump_{};
  // Odd while a kick is under way.
  std::atomic<uint32_t> mark_{0};
  // A look found a kick under way.
  std::atomic<bool> suspect_{false};
  std::atomic<bool> resting_{true};
  std::atomic<bool> asleep_{false};
  std::atomic<bool> stopped_{false};
  // Pump thread only: kicks still to be measured.
  uint32_t toMeasure_ = 0;
  Thread thread_;
};

}  // namespace vu
