#include "kicker.h"

#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <time.h>

namespace vu {
namespace {

// A kick is held up from one look to the next at most. One that is let go earlier is caught all the same: it is under
// way for a part of the time, and so at that part of the looks.
constexpr int kLookMs = 20;
// Kicks that are measured after such a look. Reading the clock twice costs about as much as the kick.
constexpr uint32_t kMeasured = 64;
// A kick takes well below a microsecond, or some where it wakes a thread; so much only with thousands of watches on the
// file.
constexpr uint64_t kSlowNs = 1'000'000;
// Ignored where it has no handler, so that a stray one harms nobody; nothing of Node.js uses it.
constexpr int kInterrupt = SIGURG;

// Without SA_RESTART: the interrupted write returns.
bool installHandler() noexcept {
  struct sigaction action {};
  action.sa_handler = [](int) {};
  return ::sigaction(kInterrupt, &action, nullptr) == 0;
}

uint64_t ownTimeNs() noexcept {
  timespec now{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

}  // namespace

Result<std::unique_ptr<Kicker>> Kicker::create() noexcept {
  static const bool installed = installHandler();
  if (!installed) return Fault{EINVAL, "sigaction SIGURG"};
  UniqueFd wake(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake) return lastFault("eventfd");
  std::unique_ptr<Kicker> kicker(new Kicker(std::move(wake)));
  Result<Thread> thread = Thread::start("vu-kick-watch", [raw = kicker.get()]() noexcept { raw->watch(); });
  if (!thread) return thread.fault();
  kicker->thread_ = std::move(thread).value();
  return kicker;
}

void Kicker::enter() noexcept {
  pump_ = ::pthread_self();
  sigset_t interrupt;
  sigemptyset(&interrupt);
  sigaddset(&interrupt, kInterrupt);
  ::pthread_sigmask(SIG_UNBLOCK, &interrupt, nullptr);
}

Kicked Kicker::kick(int fd) noexcept {
  if (resting_.load(std::memory_order_relaxed)) rouse();
  const bool measured = measures();
  const uint64_t beforeNs = measured ? ownTimeNs() : 0;
  const uint32_t mark = mark_.load(std::memory_order_relaxed);
  mark_.store(mark + 1, std::memory_order_release);
  const uint64_t one = 1;
  const ssize_t written = ::write(fd, &one, sizeof one);
  // EAGAIN: the counter is full, so a kick is pending already.
  const bool blocked = written < 0 && errno == EINTR;
  mark_.store(mark + 2, std::memory_order_release);
  if (blocked) return Kicked::kBlocked;
  if (!measured) return Kicked::kMade;
  return ownTimeNs() - beforeNs < kSlowNs ? Kicked::kQuick : Kicked::kSlow;
}

bool Kicker::measures() noexcept {
  if (suspect_.load(std::memory_order_relaxed)) {
    suspect_.store(false, std::memory_order_relaxed);
    toMeasure_ = kMeasured;
  }
  if (toMeasure_ == 0) return false;
  --toMeasure_;
  return true;
}

void Kicker::rest() noexcept {
  if (!resting_.load(std::memory_order_relaxed)) resting_.store(true);
}

// Sequentially consistent, as in watch(): one of the two sees what the other has stored.
void Kicker::rouse() noexcept {
  resting_.store(false);
  if (asleep_.load()) wake();
}

void Kicker::stop() noexcept {
  stopped_.store(true);
  wake();
  thread_.join();
}

void Kicker::watch() noexcept {
  uint32_t seen = 0;
  bool needed = false;
  while (!stopped_.load()) {
    if (needed) {
      wait(kLookMs);
    } else {
      asleep_.store(true);
      if (resting_.load()) wait(-1);
      asleep_.store(false);
    }
    const uint32_t mark = mark_.load(std::memory_order_acquire);
    // At each look, not just when the same kick was there at the last: a backend that lets go of each in between would
    // hold up the pump for good. The pump may not be inside the write yet; then the next look interrupts it.
    if (needed && mark % 2 == 1) {
      suspect_.store(true, std::memory_order_relaxed);
      ::pthread_kill(pump_, kInterrupt);
    }
    // Light traffic rests and kicks in turn: sleeping and waking with it would cost more than looking on.
    needed = !resting_.load() || mark != seen;
    seen = mark;
  }
}

void Kicker::wait(int timeoutMs) noexcept {
  pollfd waiting{wake_.get(), POLLIN, 0};
  if (::poll(&waiting, 1, timeoutMs) <= 0) return;
  uint64_t count = 0;
  (void)!::read(wake_.get(), &count, sizeof count);
}

void Kicker::wake() noexcept {
  const uint64_t one = 1;
  (void)!::write(wake_.get(), &one, sizeof one);
}

}  // namespace vu
