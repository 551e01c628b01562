#include "queue_pair.h"

#include <sys/epoll.h>
#include <time.h>

#include <algorithm>

namespace vu {
namespace {

// More calls without work in one second than any honest backend sends.
constexpr uint32_t kCallStorm = 4096;
// Kicks of one ring, each measured and found slow, with none between them that was not.
constexpr uint32_t kSlowKicks = 4;

}  // namespace

uint64_t monotonicNs() noexcept {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * kSecondNs + static_cast<uint64_t>(now.tv_nsec);
}

QueuePair::QueuePair(UniqueFd tap, uint32_t index, std::shared_ptr<PortShared> shared) noexcept
    : tap_(std::move(tap)),
      index_(index),
      shared_(std::move(shared)),
      tapWatch_{this, WatchKind::kTap},
      callWatch_{this, WatchKind::kCall} {}

void QueuePair::start(std::shared_ptr<Session> session, std::shared_ptr<PortShared> shared,
                      const StartOptions& options) noexcept {
  if (!tap_) return;
  shared_ = std::move(shared);
  session_ = std::move(session);
  options_ = options;
  const Session& s = *session_;
  const uint32_t size = s.options().queueSize;
  headerBytes_ = s.headerBytes();
  mergeable_ = s.mergeable();
  features_ = s.options().features;
  untouched_ = !options.softwareGso && !options.softwareChecksum;
  rx_ = s.virtq(2 * index_);
  tx_ = s.virtq(2 * index_ + 1);
  txState_ = s.state(2 * index_ + 1);
  headLabel_ = kMemoryLabel + s.txHeadOffset(index_);
  tailLabel_ = kMemoryLabel + s.txTailOffset(index_);
  tableLabel_ = kMemoryLabel + s.txTableOffset(index_);
  tableBase_ = s.indirect() ? s.addresses().host(tableLabel_, uint64_t{DescTable::kBytes} * size) : nullptr;
  txSlots_ = tableBase_ != nullptr ? 1 : 2;
  rxPlaces_[0] = s.rxBuffers(index_);
  rxPlaceCount_ = 1;
  headBase_ = s.addresses().host(headLabel_, uint64_t{kTxHeadBytes} * size);
  tailBase_ = s.addresses().host(tailLabel_, uint64_t{kTxTailBytes} * s.tailCount());
  kickRx_ = s.kickFd(2 * index_);
  kickTx_ = s.kickFd(2 * index_ + 1);
  callRx_ = s.callFd(2 * index_);
  callTx_ = s.callFd(2 * index_ + 1);
  frame_.want = 0;
  strikes_ = 0;
  slowKicks_ = {};
  rxWindow_ = kRxWindowMin;
  rxTaken_ = 0;
  rxBurstMost_ = 0;
  quietSeconds_ = 0;
  reapedSeen_ = reaped_;
  stalledSeconds_ = 0;
  detached_ = index_ >= options.activePairs;
  state_ = PairState::kRetired;
  if (!detached_) enter();
  kickAlways();
}

void QueuePair::enter() noexcept {
  state_ = PairState::kRunning;
  counted_ = true;
  ++pump_->running;
  setTapInterest(true);
  watchCalls();
}

// VPP starts a ring only when its kick eventfd becomes readable: once, whatever the flags say.
void QueuePair::kickAlways() noexcept {
  writeKick(kickRx_);
  writeKick(kickTx_);
}

void QueuePair::useReceiveBuffers(const RxBuffers& buffers) noexcept {
  if (!session_ || rxPlaceCount_ == rxPlaces_.size()) return;
  if (rxPlaceCount_ == 1) rxPlaceOf_.assign(session_->options().queueSize, 0);
  rxPlaces_[rxPlaceCount_++] = buffers;
  // The backend may have been given the rings anew.
  if (state_ == PairState::kRunning) kickAlways();
}

// Bursts until one finds nothing, for as many frames as the ring has room at most.
template <typename Burst>
void QueuePair::exhaust(Burst burst) noexcept {
  for (uint32_t left = session_->options().queueSize; left != 0 && state_ == PairState::kRunning;) {
    const uint32_t work = burst();
    if (work == 0) break;
    left -= std::min(left, work);
  }
}

void QueuePair::finishTransmit() noexcept {
  if (state_ != PairState::kRunning || detached_) return;
  // As much as fits: the rest is lost with the detached queue, as the kernel purges it.
  exhaust([this]() noexcept { return txBurst(); });
  detached_ = true;
  setTapInterest(false);
}

void QueuePair::retire() noexcept {
  if (state_ != PairState::kRunning || !detached_) return;
  // Bounded by what can be in the ring: nothing comes any more.
  exhaust([this]() noexcept { return rxBurst(); });
  if (state_ == PairState::kRunning) reap();
  if (state_ != PairState::kRunning) return;
  // The rest of a large frame would be sent when the pair comes back: too late.
  dropSegmentation();
  leave();
  state_ = PairState::kRetired;
}

void QueuePair::enlist() noexcept {
  if (state_ == PairState::kRunning && detached_) {
    detached_ = false;
    setTapInterest(true);
    return;
  }
  if (state_ != PairState::kRetired) return;
  detached_ = false;
  enter();
  kickAlways();
}

// Lets every event source and the session's memory alone; the session object stays for stop().
void QueuePair::leave() noexcept {
  setBlocked(false);
  if (muted_) {
    muted_ = false;
    --pump_->muted;
  } else if (counted_) {
    unwatchCalls();
  }
  if (counted_) {
    counted_ = false;
    --pump_->running;
  }
  setTapInterest(false);
}

void QueuePair::stop() noexcept {
  const bool whole = state_ == PairState::kRunning || state_ == PairState::kRetired;
  if (whole && !shared_->broken.load(std::memory_order_relaxed)) reap();
  state_ = PairState::kHeld;
  leave();
  if (session_) {
    dropSegmentation();
    counters_.drop(Drop::kTxLost, tx_.outstanding());
    if (frame_.want != 0) counters_.drop(Drop::kRxLost);
  }
  frame_.want = 0;
  detached_ = false;
  rx_ = Virtq();
  tx_ = Virtq();
  session_.reset();
}

void QueuePair::discard() noexcept {
  if (state_ != PairState::kHeld || !tap_) return;
  state_ = PairState::kDiscarding;
  setTapInterest(true);
}

uint32_t QueuePair::round() noexcept {
  if (state_ == PairState::kRunning) {
    if (shared_->broken.load(std::memory_order_relaxed)) {
      // Another pair of this port found the backend lying.
      state_ = PairState::kFailed;
      leave();
      return 0;
    }
    if (session_->memoryLost()) {
      loseMemory();
      return 0;
    }
    const uint32_t received = rxBurst();
    if (state_ != PairState::kRunning) return received;
    return received + (detached_ ? reap() : txBurst());
  }
  return state_ == PairState::kDiscarding ? discardBurst() : 0;
}

bool QueuePair::arm() noexcept {
  if (state_ != PairState::kRunning) return false;
  rx_.enableCalls(0);
  if (txBlocked_) {
    // Half of what is there: one wake-up frees room for a burst.
    tx_.enableCalls(static_cast<uint16_t>(tx_.outstanding() / 2));
    if (!tapSuspended_ && !detached_) {
      setTapInterest(false);
      tapSuspended_ = true;
      ++pump_->blocked;
    }
  }
  if (!rx_.usedPending() && !(txBlocked_ && tx_.usedPending())) return false;
  wake();
  return true;
}

void QueuePair::wake() noexcept {
  if (state_ == PairState::kRunning) rx_.disableCalls();
}

bool QueuePair::overdue() noexcept {
  return state_ == PairState::kRunning && (session_->memoryLost() || rx_.usedPending() ||
                                           (txBlocked_ && tx_.usedPending()) || (wantsTap() && !tapWatched_));
}

void QueuePair::settle() noexcept {
  watchAgain();
  settleRxWindow();
  watchForStall();
}

void QueuePair::fruitlessCall(uint64_t nowNs) noexcept {
  if (state_ != PairState::kRunning || muted_) return;
  if (nowNs - callWindowNs_ > kSecondNs) {
    callWindowNs_ = nowNs;
    fruitlessCalls_ = 0;
  }
  if (++fruitlessCalls_ < kCallStorm) return;
  unwatchCalls();
  muted_ = true;
  ++pump_->muted;
  counters_.event(Event::kCallsMuted);
}

void QueuePair::unmute(uint64_t nowNs) noexcept {
  if (!muted_ || nowNs - callWindowNs_ <= kSecondNs) return;
  muted_ = false;
  --pump_->muted;
  watchCalls();
}

void QueuePair::fail(const char* reason) noexcept {
  if (state_ != PairState::kRunning) return;
  // The zeros in its place are no ring.
  if (session_->memoryLost()) return loseMemory();
  counters_.event(Event::kRingsCorrupt);
  breakPort(PortEventKind::kRingCorrupt, reason);
}

void QueuePair::loseMemory() noexcept {
  breakPort(PortEventKind::kMemoryLost, "the backend took memory away that it shares with us");
}

void QueuePair::breakPort(PortEventKind kind, const char* reason) noexcept {
  state_ = PairState::kFailed;
  leave();
  if (!shared_->broken.exchange(true) && shared_->listener) shared_->listener(kind, reason);
}

void QueuePair::tapGone(const char* reason) noexcept {
  state_ = PairState::kFailed;
  leave();
  if (!shared_->tapGone.exchange(true) && shared_->listener) shared_->listener(PortEventKind::kTapGone, reason);
}

void QueuePair::kick(int fd, Virtq& queue) noexcept {
  if (!queue.shouldKick()) {
    counters_.event(Event::kKicksSuppressed);
    return;
  }
  writeKick(fd);
}

void QueuePair::writeKick(int fd) noexcept {
  // Not again after one that blocked, of whichever pair: each costs the pump's other pairs as long.
  if (state_ != PairState::kRunning && state_ != PairState::kRetired) return;
  if (shared_->broken.load(std::memory_order_relaxed)) return;
  counters_.event(Event::kKicks);
  uint32_t& slow = slowKicks_[fd == kickRx_ ? 0 : 1];
  switch (pump_->kicker->kick(fd)) {
    case Kicked::kMade:
      return;
    case Kicked::kQuick:
      slow = 0;
      return;
    case Kicked::kSlow:
      if (++slow < kSlowKicks) return;
      return breakPort(PortEventKind::kKickBlocked, "the backend made kicks take milliseconds");
    case Kicked::kBlocked:
      return breakPort(PortEventKind::kKickBlocked, "the backend made its kick eventfd block");
  }
}

void QueuePair::setBlocked(bool blocked) noexcept {
  if (blocked == txBlocked_) return;
  txBlocked_ = blocked;
  if (blocked) {
    counters_.event(Event::kTxRingFull);
    return;
  }
  if (session_ && state_ == PairState::kRunning) tx_.disableCalls();
  if (tapSuspended_) {
    tapSuspended_ = false;
    --pump_->blocked;
    if (!detached_) setTapInterest(true);
  }
}

// false: the kernel has no memory, or the user no watch left (ENOSPC: fs.epoll.max_user_watches).
bool QueuePair::watch(int fd, Watch& watch) noexcept {
  epoll_event event{};
  event.events = EPOLLIN | EPOLLET;
  event.data.ptr = &watch;
  return ::epoll_ctl(pump_->epollFd, EPOLL_CTL_ADD, fd, &event) == 0;
}

void QueuePair::unwatch(int fd) noexcept { ::epoll_ctl(pump_->epollFd, EPOLL_CTL_DEL, fd, nullptr); }

// Adding anew reports what is readable already, so no edge is lost.
void QueuePair::setTapInterest(bool on) noexcept {
  if (on == tapWatched_ || !tap_) return;
  if (on) {
    tapWatched_ = watch(tap_.get(), tapWatch_);
  } else {
    unwatch(tap_.get());
    tapWatched_ = false;
  }
}

bool QueuePair::wantsTap() const noexcept { return state_ == PairState::kRunning && !detached_ && !tapSuspended_; }

void QueuePair::watchCalls() noexcept {
  callsWatched_ = watch(callRx_, callWatch_) && watch(callTx_, callWatch_);
  if (!callsWatched_) unwatchCalls();
}

void QueuePair::unwatchCalls() noexcept {
  unwatch(callRx_);
  unwatch(callTx_);
  callsWatched_ = false;
}

// Where the kernel refused it: until then the pump's look each second is all that moves frames.
void QueuePair::watchAgain() noexcept {
  if (state_ != PairState::kRunning) return;
  if (!muted_ && !callsWatched_) watchCalls();
  if (wantsTap()) setTapInterest(true);
}

}  // namespace vu
