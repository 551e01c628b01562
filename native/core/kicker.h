// Kicks of one pump thread, none of which can hold it up for long.
//
// A kick eventfd is one open file with the backend's: it can clear O_NONBLOCK and fill the counter, and our next write
// would never return. Nothing helps beforehand: between a look and the write is a gap, and eventfds know no RWF_NOWAIT.
// So a second thread watches while kicks are made, and interrupts one that is under way at two looks in succession.
// While the pump sleeps so does the watch.
#pragma once

#include <pthread.h>

#include <atomic>
#include <cstdint>
#include <memory>

#include "result.h"
#include "thread.h"
#include "unique_fd.h"

namespace vu {

class Kicker {
 public:
  // Errors: EMFILE, EAGAIN (no more threads), …
  static Result<std::unique_ptr<Kicker>> create() noexcept;
  ~Kicker() { stop(); }
  Kicker(const Kicker&) = delete;
  Kicker& operator=(const Kicker&) = delete;

  // On the pump thread, before its first kick.
  void enter() noexcept;
  // On the pump thread. false: the write blocked and was interrupted, which an honest backend never causes.
  bool kick(int fd) noexcept;
  // On the pump thread: there may be no kick for long.
  void rest() noexcept;
  // Ends and joins the watch, when the pump thread has ended. Idempotent.
  void stop() noexcept;

 private:
  explicit Kicker(UniqueFd wake) noexcept : wake_(std::move(wake)) {}
  void rouse() noexcept;
  void watch() noexcept;
  void wait(int timeoutMs) noexcept;
  void wake() noexcept;

  UniqueFd wake_;
  pthread_t pump_{};
  // Odd while a kick is under way.
  std::atomic<uint32_t> mark_{0};
  std::atomic<bool> resting_{true};
  std::atomic<bool> asleep_{false};
  std::atomic<bool> stopped_{false};
  Thread thread_;
};

}  // namespace vu
