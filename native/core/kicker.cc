#include "kicker.h"

#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>

namespace vu {
namespace {

// A kick is held up for two looks at most; a thread that was merely not scheduled meanwhile notices nothing.
constexpr int kLookMs = 20;
// Ignored where it has no handler, so that a stray one harms nobody; nothing of Node.js uses it.
constexpr int kInterrupt = SIGURG;

// Without SA_RESTART: the interrupted write returns.
bool installHandler() noexcept {
  struct sigaction action {};
  action.sa_handler = [](int) {};
  return ::sigaction(kInterrupt, &action, nullptr) == 0;
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

bool Kicker::kick(int fd) noexcept {
  if (resting_.load(std::memory_order_relaxed)) rouse();
  const uint32_t mark = mark_.load(std::memory_order_relaxed);
  mark_.store(mark + 1, std::memory_order_release);
  const uint64_t one = 1;
  const ssize_t written = ::write(fd, &one, sizeof one);
  mark_.store(mark + 2, std::memory_order_release);
  // EAGAIN: the counter is full, so a kick is pending already.
  return written >= 0 || errno != EINTR;
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
    // Again at each look: the pump may not have been inside the write yet.
    if (needed && mark == seen && mark % 2 == 1) ::pthread_kill(pump_, kInterrupt);
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
