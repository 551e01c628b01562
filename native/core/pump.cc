#include "pump.h"

#include <sched.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>

#include <algorithm>
#include <array>

#include "cores.h"
#include "time_slice.h"

namespace vu {
namespace {

// Rounds of one pair between two looks at epoll while there is work.
constexpr uint32_t kRoundsPerPoll = 16;
// A pair that had nothing for so many rounds leaves the run list while others are busy.
constexpr uint32_t kFruitlessRounds = 64;
// At most so much fruitless spinning per second: 30 % of a core.
constexpr uint64_t kSpinBudgetNs = 300'000'000;
// Spinning this long lets others have the core between two looks.
constexpr uint64_t kYieldAfterNs = 3'000;
// A yield that took longer went to somebody who computes, not to a pod that answers. Then nobody yields for a while,
// and for twice as long when it happens again within the longest while.
constexpr uint64_t kLongYieldNs = 1'000'000;
constexpr uint64_t kCrowdedLeastNs = 10'000'000;
constexpr uint64_t kCrowdedMostNs = kSecondNs / 2;
// What a pod gets waits in its sockets, where the default has room for fewer than 300 small frames: a pod that shares
// the core gets a turn after so many. Without: of 133 thousand frames/s that came to it a pod read 50 thousand, now 115
// thousand. On a Zen 4 32, 64 and 128 lay within the noise of each other; on a Granite Rapids, in thousands that a pod
// read, on one core and on two: 64: 145 and 166; 128: 159 and 195; 192: 145 and 182; 256: 153 and 194.
constexpr uint32_t kDeliveredMost = 128;
// Datagrams: nothing holds a sender back that fills a pod's socket. Once that must be nearly full and others want the
// core, the pump sleeps, so that the pod can read all of it. With merged datagrams on two cores a pod then read 222
// thousand small frames/s instead of 190; to yield, as for other frames, gave 180. Datagrams that come one by one are
// yielded for before they are so many; sleeping gave nothing with them.
constexpr long kRestNs = 250'000;
// A yield that took longer went to somebody. That is taken to last for a while: with a tenth of it, in which every
// eighth turn asked again, the pod above read a twentieth less.
constexpr uint64_t kSharedYieldNs = 5'000;
constexpr uint64_t kSharedForNs = 100'000'000;
// Whoever yields gives the rest of its time slice away (Linux 6.18 all of it), so that it must be a short one: with the
// usual one the pod above read 19 thousand.
constexpr uint64_t kTimeSliceNs = 100'000;
// A call may never come (F40): how often a pump looks by itself, asleep or busy.
constexpr uint64_t kLookNs = kSecondNs;
constexpr uint64_t kLookBlockedNs = 100'000'000;
constexpr uint64_t kLookMutedNs = 10'000'000;

}  // namespace

Pump::Pump(uint32_t spinUs, UniqueFd epoll, UniqueFd control, std::unique_ptr<Kicker> kicker) noexcept
    : spinNs_(uint64_t{spinUs} * 1000),
      epoll_(std::move(epoll)),
      control_(std::move(control)),
      kicker_(std::move(kicker)),
      scratch_(std::make_unique<PumpScratch>()) {
  context_.epollFd = epoll_.get();
  context_.scratch = scratch_.get();
  context_.kicker = kicker_.get();
}

Result<std::shared_ptr<Pump>> Pump::create(const std::string& name, uint32_t spinUs) noexcept {
  UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll) return lastFault("epoll_create1");
  UniqueFd control(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!control) return lastFault("eventfd");
  epoll_event event{};
  event.events = EPOLLIN | EPOLLET;
  event.data.ptr = nullptr;
  if (::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, control.get(), &event) != 0) return lastFault("epoll_ctl");
  auto kicker = Kicker::create();
  if (!kicker) return kicker.fault();
  std::shared_ptr<Pump> pump(new Pump(spinUs, std::move(epoll), std::move(control), std::move(kicker).value()));
  // With every signal blocked SIGPIPE from a write is an errno.
  Result<Thread> thread = Thread::start(name.substr(0, 15).c_str(), [raw = pump.get()]() noexcept { raw->run(); });
  if (!thread) return thread.fault();
  pump->thread_ = std::move(thread).value();
  return pump;
}

Pump::~Pump() { stop(); }

bool Pump::post(std::function<void()> command) noexcept {
  {
    const std::lock_guard lock(mutex_);
    if (closed_) return false;
    inbox_.push_back(std::move(command));
  }
  const uint64_t one = 1;
  (void)!::write(control_.get(), &one, sizeof one);
  return true;
}

void Pump::stop() noexcept {
  {
    const std::lock_guard lock(mutex_);
    if (closed_) return;
    closed_ = true;
  }
  stop_.store(true, std::memory_order_release);
  const uint64_t one = 1;
  (void)!::write(control_.get(), &one, sizeof one);
  thread_.join();
  kicker_->stop();
}

void Pump::attach(QueuePair& pair) noexcept {
  pair.attach(&context_);
  pairs_.push_back(&pair);
  runList_.reserve(pairs_.size());
}

void Pump::detach(QueuePair& pair) noexcept {
  std::erase(pairs_, &pair);
  std::erase(runList_, &pair);
  pair.active = false;
}

void Pump::activate(QueuePair& pair) noexcept {
  if (pair.active || !pair.pumpable()) return;
  pair.active = true;
  pair.fruitless = 0;
  pair.wake();
  runList_.push_back(&pair);
}

void Pump::run() noexcept {
  const AnyCore anyCore;
  kicker_->enter();
  const bool givesWay = requestTimeSlice(kTimeSliceNs);
  while (!stop_.load(std::memory_order_acquire)) {
    if (runList_.empty()) {
      sleep(monotonicNs());
      continue;
    }
    if (runRound() != 0) {
      worked_ = true;
      if (givesWay && context_.socketFull) {
        letRead();
      } else if (givesWay && context_.delivered >= kDeliveredMost) {
        giveWay();
      }
      continue;
    }
    const uint64_t now = monotonicNs();
    if (worked_) {
      worked_ = false;
      idleSinceNs_ = now;
    }
    if (maySpin(now)) {
      // The pod that was just given a frame may be waiting for this very core: without this p99 of a ping-pong on two
      // cores was three times as long. At once would cost p50.
      if (now - idleSinceNs_ > kYieldAfterNs) yield(now);
      continue;
    }
    endSpin(now);
    park();
  }
  // Commands posted before stop() still run: somebody may wait for them.
  runCommands();
}

uint32_t Pump::runRound() noexcept {
  uint32_t total = 0;
  for (size_t i = 0; i < runList_.size();) {
    QueuePair& pair = *runList_[i];
    pair.signalled = false;
    const uint32_t work = pair.round();
    total += work;
    if (work != 0) {
      pair.fruitless = 0;
      pair.woken = false;
    } else {
      ++pair.fruitless;
      pair.countSpin();
      if (pair.woken) {
        pair.woken = false;
        pair.fruitlessCall(monotonicNs());
      }
    }
    const bool leaves = !pair.pumpable() || (total != 0 && pair.fruitless >= kFruitlessRounds && !pair.arm());
    if (leaves) {
      pair.active = false;
      runList_[i] = runList_.back();
      runList_.pop_back();
    } else {
      ++i;
    }
    if (++pairRounds_ % kRoundsPerPoll == 0) {
      poll(0);
      if (stop_.load(std::memory_order_relaxed)) return total;
      look(monotonicNs());
    }
  }
  return total;
}

void Pump::park() noexcept {
  std::erase_if(runList_, [](QueuePair* pair) {
    // The TAP's edge is gone: nobody else will tell of the frame behind it.
    if (pair->signalled || pair->arm()) return false;
    pair->active = false;
    return true;
  });
}

uint64_t Pump::lookIntervalNs() const noexcept {
  if (context_.muted != 0) return kLookMutedNs;
  return context_.blocked != 0 ? kLookBlockedNs : kLookNs;
}

void Pump::sleep(uint64_t nowNs) noexcept {
  kicker_->rest();
  beginTurn();
  if (context_.running == 0) {
    poll(-1);
    wakeups_.add(1);
    return;
  }
  scheduleLook(nowNs);
  if (nextLookNs_ > nowNs) {
    poll(static_cast<int>((nextLookNs_ - nowNs + 999'999) / 1'000'000));
    wakeups_.add(1);
  }
  // Also when events came: a port whose call was lost must not wait for a moment without traffic on the others.
  look(monotonicNs());
}

// The interval may have become shorter.
void Pump::scheduleLook(uint64_t nowNs) noexcept { nextLookNs_ = std::min(nextLookNs_, nowNs + lookIntervalNs()); }

void Pump::look(uint64_t nowNs) noexcept {
  scheduleLook(nowNs);
  if (nowNs < nextLookNs_) return;
  nextLookNs_ = nowNs + lookIntervalNs();
  // The interval is shorter while somebody waits; settling keeps its own.
  const bool settle = nowNs - settledNs_ >= kSecondNs;
  if (settle) settledNs_ = nowNs;
  for (QueuePair* pair : pairs_) {
    pair->unmute(nowNs);
    if (settle) pair->settle();
    if (!pair->active && pair->overdue()) activate(*pair);
  }
}

void Pump::poll(int timeoutMs) noexcept {
  std::array<epoll_event, 64> events;
  const int count = ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), timeoutMs);
  bool control = false;
  for (int i = 0; i < count; ++i) {
    auto* watch = static_cast<Watch*>(events[static_cast<size_t>(i)].data.ptr);
    if (watch == nullptr) {
      control = true;
      continue;
    }
    QueuePair& pair = *watch->pair;
    if (watch->kind == WatchKind::kCall) {
      pair.countCall();
      pair.woken = true;
    }
    pair.signalled = true;
    activate(pair);
  }
  // Last: commands may free what the events above point at.
  if (control) runCommands();
}

// The thread has the share of its core that every thread has, in short turns. A larger share costs more switches than
// it saves in the caches: one TCP stream on a shared core, nine rounds, against none: real-time priority 0.70, nice -15
// 0.85. SCHED_BATCH and no spin at all lay within the noise. That the pod does not come in between the frames of a
// burst is the doing of write_batch.h.
//
// Whoever yields beside somebody who computes has the core again after that one's turn, which is milliseconds, where a
// sleeper that is woken goes first. So on a crowded core the pump sleeps at once.
void Pump::yield(uint64_t nowNs) noexcept {
  giveWay();
  const uint64_t backNs = monotonicNs();
  if (backNs - nowNs < kLongYieldNs) return;
  crowdedForNs_ =
      backNs - crowdedUntilNs_ < kCrowdedMostNs ? std::min(2 * crowdedForNs_, kCrowdedMostNs) : kCrowdedLeastNs;
  crowdedUntilNs_ = backNs + crowdedForNs_;
}

void Pump::beginTurn() noexcept {
  context_.delivered = 0;
  context_.socketFull = false;
  ++context_.turn;
}

void Pump::giveWay() noexcept {
  beginTurn();
  ::sched_yield();
}

void Pump::letRead() noexcept {
  const uint64_t nowNs = monotonicNs();
  if (nowNs >= sharedUntilNs_) {
    giveWay();
    const uint64_t backNs = monotonicNs();
    if (backNs - nowNs > kSharedYieldNs) sharedUntilNs_ = backNs + kSharedForNs;
    return;
  }
  beginTurn();
  const timespec rest{0, kRestNs};
  (void)::nanosleep(&rest, nullptr);
}

bool Pump::maySpin(uint64_t nowNs) noexcept {
  const uint64_t limitNs = nowNs < crowdedUntilNs_ ? std::min(spinNs_, kYieldAfterNs) : spinNs_;
  if (limitNs == 0 || idleSinceNs_ == 0 || nowNs - idleSinceNs_ >= limitNs) return false;
  if (nowNs - budgetWindowNs_ >= kSecondNs) {
    budgetWindowNs_ = nowNs;
    budgetSpentNs_ = 0;
  }
  return budgetSpentNs_ < kSpinBudgetNs;
}

// A spin that work ended was not in vain and is not charged.
void Pump::endSpin(uint64_t nowNs) noexcept {
  if (idleSinceNs_ == 0) return;
  budgetSpentNs_ += nowNs - idleSinceNs_;
  spunNs_.add(nowNs - idleSinceNs_);
  idleSinceNs_ = 0;
}

void Pump::runCommands() noexcept {
  uint64_t count = 0;
  (void)!::read(control_.get(), &count, sizeof count);
  std::vector<std::function<void()>> commands;
  {
    const std::lock_guard lock(mutex_);
    commands.swap(inbox_);
  }
  for (auto& command : commands) command();
}

}  // namespace vu
