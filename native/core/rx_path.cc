// Receive half of a queue pair: used ring → one write per frame, a burst of them in one call → TAP.
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "queue_pair.h"

namespace vu {
namespace {

constexpr uint16_t kRepostBatch = 16;
// A burst of large frames is written in parts: the backend keeps at least so large a part of the ring.
constexpr uint32_t kHeldShare = 2;
// F33: lengths that cannot be are dropped, unless they come at this rate.
constexpr uint32_t kStrikesPerSecond = 16;
// A burst that uses this part of the window doubles it. With a quarter the broadcasts of 250 pods that come at once
// made idle rings grow: 103 MB of them touched instead of 72.
constexpr uint16_t kWindowShare = 2;
constexpr uint16_t kQuietSeconds = 5;
// What a datagram takes of a socket's receive buffer besides its frame (skb->truesize): 704 or 768 bytes for the
// smallest.
constexpr uint64_t kDatagramOverheadBytes = 704;
// A default receive buffer (net.core.rmem_default: 212992 bytes) is nearly full.
constexpr uint64_t kSocketBytesMost = 192'000;

}  // namespace

uint32_t QueuePair::rxBurst() noexcept {
  uint32_t frames = 0;
  uint32_t bytes = 0;
  bool drained = false;
  while (frames < kBurst && bytes < kBurstBytes) {
    const Assembled what = assemble();
    if (what == Assembled::kNothing) {
      drained = true;
      break;
    }
    ++frames;
    bytes += frame_.bytes;
    if (what == Assembled::kFrame) {
      gatherFrame();
      if (filter_ && !passesFilter()) {
        counters_.event(Event::kRxFiltered);
      } else if (options_.softwareGro) {
        coalesce();
      } else {
        deliver();
      }
      if (pump_->scratch->returnedCount >= session_->options().queueSize / kHeldShare) letGo();
    }
    if (state_ != PairState::kRunning) break;
  }
  letGo();
  if (state_ != PairState::kRunning) {
    abandonBurst();
    return frames;
  }
  if (rxTaken_ > rxBurstMost_) rxBurstMost_ = rxTaken_;
  if (rxTaken_ >= rxWindow_ / kWindowShare && rx_.freeCount() != 0) growRxWindow();
  if (drained) rxTaken_ = 0;
  // Nothing is held back while we may sleep: the backend gets every buffer of the window.
  if (rx_.unpublished() != 0) publishRx();
  return frames;
}

// Takes used elements until a frame is complete. What is there of an incomplete one stays in frame_.
QueuePair::Assembled QueuePair::assemble() noexcept {
  for (;;) {
    UsedHead used;
    switch (rx_.take(used)) {
      case Virtq::Take::kNone:
        return Assembled::kNothing;
      case Virtq::Take::kBroken:
        fail(rx_.broken());
        return Assembled::kNothing;
      case Virtq::Take::kTaken:
        break;
    }
    ++rxTaken_;
    if (frame_.want == 0 && !beginFrame(used)) return Assembled::kNothing;
    if (used.len > used.posted) spoil(Drop::kRxTooLong);
    frame_.bytes += used.len > used.posted ? used.posted : used.len;
    if (frame_.bytes > kMaxFrameBytes || frame_.have >= kMaxFrameBuffers) spoil(Drop::kRxTooLong);
    if (frame_.bad) {
      giveBack(used.head);
    } else {
      frame_.heads[frame_.have] = used.head;
      frame_.lens[frame_.have] = used.len;
    }
    if (++frame_.have < frame_.want) continue;
    frame_.want = 0;
    if (!frame_.bad) return Assembled::kFrame;
    counters_.drop(frame_.verdict);
    if (frame_.verdict == Drop::kRxTooLong || frame_.verdict == Drop::kRxShort) strike();
    return Assembled::kBad;
  }
}

bool QueuePair::beginFrame(const UsedHead& used) noexcept {
  frame_.have = 0;
  frame_.bytes = 0;
  frame_.bad = false;
  frame_.want = 1;
  if (used.len < headerBytes_) {
    // num_buffers was not written: taken as a frame of one buffer.
    spoil(Drop::kRxShort);
    return true;
  }
  if (!mergeable_) return true;
  frame_.want = loadRelaxed(reinterpret_cast<uint16_t*>(rxBuffer(used.head) + kNumBuffersOffset));
  // The buffers of one frame must all be with the device or used: with fewer it could never be completed.
  const uint32_t attainable = uint32_t{rx_.outstanding()} + 1;
  if (frame_.want == 0 || frame_.want > attainable) {
    rx_.markBroken(frame_.want == 0 ? "num_buffers is 0" : "num_buffers exceeds the posted buffers");
    frame_.want = 0;
    fail(rx_.broken());
    return false;
  }
  return true;
}

// From now on the frame is only consumed; what was kept of it goes back at once.
void QueuePair::spoil(Drop reason) noexcept {
  if (frame_.bad) return;
  frame_.bad = true;
  frame_.verdict = reason;
  for (uint16_t i = 0; i < frame_.have; ++i) giveBack(frame_.heads[i]);
}

void QueuePair::strike() noexcept {
  const uint64_t now = monotonicNs();
  if (now - strikeWindowNs_ > kSecondNs) {
    strikeWindowNs_ = now;
    strikes_ = 0;
  }
  if (++strikes_ > kStrikesPerSecond) {
    rx_.markBroken("used lengths keep being impossible");
    fail(rx_.broken());
  }
}

// The backend decides how a frame is cut into buffers.
bool QueuePair::passesFilter() const noexcept {
  std::array<uint8_t, RxFilter::kLookBytes> look{};
  uint32_t skip = headerBytes_;
  uint32_t have = 0;
  for (uint16_t i = 0; i < frame_.have && have < look.size(); ++i) {
    const uint32_t len = frame_.lens[i];
    if (len <= skip) {
      skip -= len;
      continue;
    }
    const uint32_t part = std::min<uint32_t>(len - skip, static_cast<uint32_t>(look.size()) - have);
    std::memcpy(look.data() + have, rxBuffer(frame_.heads[i]) + skip, part);
    have += part;
    skip = 0;
  }
  return filter_->passes(look.data());
}

// With returnBuffers(): all go back in the order in which they came, as IN_ORDER asks for.
void QueuePair::giveBack(uint16_t head) noexcept {
  PumpScratch& scratch = *pump_->scratch;
  scratch.returned[scratch.returnedCount++] = head;
}

// The frame just assembled, for one write. Its buffers go back when that is done.
void QueuePair::gatherFrame() noexcept {
  for (uint16_t i = 0; i < frame_.have; ++i) {
    pump_->scratch->parts[i] = iovec{rxBuffer(frame_.heads[i]), frame_.lens[i]};
    giveBack(frame_.heads[i]);
  }
}

void QueuePair::deliver() noexcept {
  queueWrite({pump_->scratch->parts.data(), frame_.have, 1, frame_.bytes - headerBytes_, false});
}

// The pair stopped within a burst: the pump's work space is another pair's next.
void QueuePair::abandonBurst() noexcept {
  PumpScratch& scratch = *pump_->scratch;
  counters_.drop(Drop::kRxLost, scratch.flows.pending());
  scratch.flows.clear();
  scratch.returnedCount = 0;
}

// Writes what is held, so that its buffers can go back.
void QueuePair::letGo() noexcept {
  // No timer: what came together goes on together, and at once.
  if (state_ == PairState::kRunning && options_.softwareGro) flushCoalesced();
  submitWrites();
  if (state_ == PairState::kRunning) returnBuffers();
}

void QueuePair::queueWrite(const CoalescedFrame& frame) noexcept {
  PumpScratch& scratch = *pump_->scratch;
  if (!scratch.writes.hasRoom()) submitWrites();
  scratch.queued[scratch.writes.size()] = {frame.frames, frame.bytes, frame.datagrams};
  // The headers of a merged frame are of the run that made it, which begins anew.
  scratch.writes.add(tap_.get(), frame.parts, frame.partCount, frame.frames > 1);
}

void QueuePair::submitWrites() noexcept {
  PumpScratch& scratch = *pump_->scratch;
  const std::span<const int64_t> results = scratch.writes.submit();
  for (size_t i = 0; i < results.size(); ++i) account(scratch.queued[i], results[i]);
}

// `result`: what write(2) gave, or -errno.
void QueuePair::account(const QueuedWrite& write, int64_t result) noexcept {
  const uint32_t frames = write.frames;
  if (result >= 0) {
    counters_.rxFrames.add(frames);
    counters_.rxBytes.add(write.bytes);
    ++pump_->delivered;
    if (write.datagrams) countDatagrams(write);
    return;
  }
  switch (-result) {
    case EINVAL:
      counters_.drop(Drop::kRxInvalid, frames);
      return;
    case EIO:
      counters_.drop(Drop::kRxLinkDown, frames);
      return;
    case EAGAIN:
    case ENOBUFS:
    case ENOMEM:
      counters_.drop(Drop::kRxTapFull, frames);
      return;
    case EFAULT:
      counters_.drop(Drop::kRxLost, frames);
      loseMemory();
      return;
    case EBADFD:
    case ENODEV:
    case ENXIO:
    case EPIPE:
    case ECONNRESET:
    case ENOTCONN:
      counters_.drop(Drop::kRxLost, frames);
      tapGone("write to the TAP: the device is gone");
      return;
    default:
      counters_.drop(Drop::kRxInvalid, frames);
  }
}

void QueuePair::countDatagrams(const QueuedWrite& write) noexcept {
  if (socketTurn_ != pump_->turn) {
    socketTurn_ = pump_->turn;
    socketBytes_ = 0;
  }
  socketBytes_ += write.bytes + uint64_t{write.frames} * kDatagramOverheadBytes;
  if (socketBytes_ >= kSocketBytesMost) pump_->socketFull = true;
}

void QueuePair::returnBuffers() noexcept {
  PumpScratch& scratch = *pump_->scratch;
  for (uint32_t i = 0; i < scratch.returnedCount && state_ == PairState::kRunning; ++i) repost(scratch.returned[i]);
  scratch.returnedCount = 0;
}

// The ring was shorter than the traffic: from now on twice as many buffers are posted.
void QueuePair::growRxWindow() noexcept {
  const uint32_t size = session_->options().queueSize;
  rxWindow_ = static_cast<uint16_t>(rxWindow_ * 2U < size ? rxWindow_ * 2U : size);
  rxTaken_ = 0;
  quietSeconds_ = 0;
  while (rx_.freeCount() != 0 && rx_.outstanding() < rxWindow_) {
    const uint16_t head = rx_.allocate();
    describeRx(head);
  }
}

void QueuePair::settleRxWindow() noexcept {
  if (state_ != PairState::kRunning || rxWindow_ == kRxWindowMin) return;
  const bool quiet = rxBurstMost_ < kRxWindowMin / kWindowShare;
  rxBurstMost_ = 0;
  if (!quiet) {
    quietSeconds_ = 0;
  } else if (++quietSeconds_ >= kQuietSeconds) {
    rxWindow_ = kRxWindowMin;
  }
}

// Posts a buffer whose descriptor says something else, or nothing yet.
void QueuePair::describeRx(uint16_t head) noexcept {
  const RxBuffers& place = rxPlaces_[rxPlaceCount_ - 1];
  if (rxPlaceCount_ > 1) rxPlaceOf_[head] = static_cast<uint8_t>(rxPlaceCount_ - 1);
  rx_.describe(head, place.labelOf(head), place.bytes, kDescWrite, 0);
  rx_.submit(head, 1, place.bytes, kNoTail);
}

// Ours alone until it is posted again, so its page can be given back: it reads as zeros afterwards.
void QueuePair::park(uint16_t head) noexcept {
  rx_.release(head, 1);
  const RxBuffers& place = rxPlace(head);
  if (place.reclaim) (void)::madvise(place.host(head), place.stride, MADV_REMOVE);
}

void QueuePair::repost(uint16_t head) noexcept {
  if (rx_.outstanding() >= rxWindow_) {
    park(head);
    return;
  }
  const RxBuffers& place = rxPlaces_[rxPlaceCount_ - 1];
  if (rxPlaceCount_ == 1 || rxPlaceOf_[head] == rxPlaceCount_ - 1) [[likely]] {
    rx_.repost(head, place.labelOf(head), place.bytes);
  } else {
    // Its page in the old place is not used again.
    const RxBuffers& old = rxPlace(head);
    if (old.reclaim) (void)::madvise(old.host(head), old.stride, MADV_REMOVE);
    describeRx(head);
  }
  if (rx_.unpublished() >= kRepostBatch) publishRx();
}

void QueuePair::publishRx() noexcept {
  rx_.publish();
  counters_.event(Event::kRxRefills);
  kick(kickRx_, rx_);
}

}  // namespace vu
