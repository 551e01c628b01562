// Transmit half of a queue pair: one read per frame from the TAP → a transmit buffer → available ring.
//
// Where the backend lacks an offload the frame is read into private memory, is judged and changed there, and copied to
// the buffer, past the caches if it is large (stream_copy.h). Where it lacks none nothing but the vnet header is
// judged, of which there is a copy, so that the frame may also go straight to the buffer: tx_way.h decides.
#include <algorithm>
#include <cerrno>
#include <cstring>

#include "checksum.h"
#include "frame_fields.h"
#include "queue_pair.h"
#include "tap_read.h"

namespace vu {
namespace {

// Shorter frames stay in the caches: a few lines are sooner there than in memory.
constexpr uint32_t kStreamLeastBytes = 512;

static_assert(kTxHeadBytes % kStreamUnit == 0 && kTxTailBytes % kStreamUnit == 0);

}  // namespace

uint16_t QueuePair::takeTail() noexcept {
  QueueState& queue = *txState_.queue;
  const uint16_t tail = queue.freeTail;
  queue.freeTail = txState_.tailNext[tail];
  --queue.freeTailCount;
  txState_.tailRefs[tail] = 1;
  return tail;
}

void QueuePair::dropTail(uint16_t tail) noexcept {
  if (--txState_.tailRefs[tail] != 0) return;
  QueueState& queue = *txState_.queue;
  txState_.tailNext[tail] = queue.freeTail;
  queue.freeTail = tail;
  ++queue.freeTailCount;
}

// May a header with these flags and this GSO type go to the backend? (virtio 1.2, 5.1.6.2). Normally the TAP's offloads
// see to it; frames queued before a reconnect were made for the features of the backend before.
bool QueuePair::backendTakes(uint8_t flags, uint8_t gsoType) const noexcept {
  if ((flags & kHdrNeedsCsum) != 0 && (features_ & kFeatureCsum) == 0) return false;
  if ((gsoType & kGsoEcn) != 0 && (features_ & kFeatureHostEcn) == 0) return false;
  switch (gsoType & ~kGsoEcn) {
    case kGsoNone:
      return gsoType == kGsoNone;
    case kGsoTcp4:
      return (features_ & kFeatureHostTso4) != 0;
    case kGsoTcp6:
      return (features_ & kFeatureHostTso6) != 0;
    case kGsoUdp:
      return (features_ & kFeatureHostUfo) != 0;
    case kGsoUdpL4:
      return (features_ & kFeatureHostUso) != 0;
    default:
      return false;
  }
}

// Takes back what the backend has sent. Returns the number of chains.
uint32_t QueuePair::reap() noexcept {
  return tx_.with([this](auto& queue) noexcept {
    uint32_t chains = 0;
    UsedHead used;
    for (;;) {
      switch (queue.take(used)) {
        case Virtq::Take::kNone:
          return chains;
        case Virtq::Take::kBroken:
          fail(queue.broken());
          return chains;
        case Virtq::Take::kTaken:
          queue.release(used.head, used.chain);
          if (used.tail != kNoTail) dropTail(used.tail);
          ++chains;
          ++reaped_;
      }
    }
  });
}

bool QueuePair::haveTxRoom() noexcept { return tx_.freeCount() >= txSlots_ && txState_.queue->freeTailCount != 0; }

// Room for one frame, reaping if need be. false: the ring is full or broken.
bool QueuePair::makeTxRoom() noexcept {
  if (haveTxRoom()) return true;
  reap();
  if (state_ != PairState::kRunning) return false;
  if (haveTxRoom()) return true;
  setBlocked(true);
  return false;
}

// Reads the pod's next frame, into the scratch or straight to where it is posted: its bytes with the vnet header, 0 for
// one that cannot be sent, nothing when there is none.
std::optional<uint32_t> QueuePair::readFrame(bool straight) noexcept {
  std::array<iovec, 2> parts;
  if (straight) {
    parts = {iovec{txHead(tx_.peekFree()), kTxHeadBytes}, iovec{txTail(txState_.queue->freeTail), kTxTailBytes}};
  } else {
    parts[0] = {pump_->scratch->frame.data(), kTxTailBytes};
  }
  const ssize_t got = vuReadTap(tap_.get(), parts.data(), straight ? 2 : 1);
  if (got <= 0) {
    if (got == 0) tapGone("read from the TAP: end of file");
    return got < 0 && readFailed() ? std::optional(0U) : std::nullopt;
  }
  const auto bytes = static_cast<uint32_t>(got);
  if (bytes < headerBytes_ + kEthernetBytes) {
    counters_.drop(Drop::kTxInvalid);
    return 0;
  }
  if (bytes >= kTxTailBytes) {
    counters_.drop(Drop::kTxTruncated);
    return 0;
  }
  return bytes;
}

uint32_t QueuePair::txBurst() noexcept {
  const uint32_t reaped = reap();
  if (state_ != PairState::kRunning) return reaped;
  if (txBlocked_) {
    // The TAP's queue is the backpressure: nothing is read before there is room.
    if (!haveTxRoom()) return reaped;
    setBlocked(false);
  }
  TxWay& way = pump_->scratch->way;
  // There is room, so a frame left over from the last burst makes progress: that is work.
  uint32_t work = segmentation_.active ? 1 : 0;
  uint32_t sent = 0;
  for (uint32_t frames = 0; frames < kBurst && sent < kBurstBytes && state_ == PairState::kRunning; ++frames, ++work) {
    if (segmentation_.active && !emitSegments()) break;
    if (!makeTxRoom()) break;
    const bool straight = untouched_ && way.straight();
    const uint64_t beganNs = untouched_ && way.trying() ? monotonicNs() : 0;
    const std::optional<uint32_t> bytes = readFrame(straight);
    if (!bytes) break;
    if (*bytes == 0) continue;
    sent += *bytes;
    transmit(*bytes, straight);
    if (untouched_) way.passed(*bytes, way.trying() ? monotonicNs() - beganNs : 0);
  }
  if (state_ != PairState::kRunning) return work;
  // The burst may have ended on a frame that was only planned.
  if (segmentation_.active && !emitSegments()) keepSegments();
  if (state_ == PairState::kRunning && tx_.unpublished() != 0) publishTx();
  return work;
}

// Judges the frame that was read and posts it: as it is, with what the backend lacks done here, or not at all.
void QueuePair::transmit(uint32_t bytes, bool straight) noexcept {
  uint8_t* const frame = straight ? txHead(tx_.peekFree()) : pump_->scratch->frame.data();
  VnetHdr header = VnetHdr::read(frame, headerBytes_);
  header.flags &= kHdrNeedsCsum;
  header.numBuffers = 0;
  const bool summed =
      options_.softwareChecksum && header.gsoType == kGsoNone && header.flags != 0 && (features_ & kFeatureCsum) == 0;
  if (summed) {
    if (!completeChecksum(frame + headerBytes_, bytes - headerBytes_, header.csumStart, header.csumOffset)) {
      counters_.drop(Drop::kTxInvalid);
      return;
    }
    header = VnetHdr{};
    counters_.event(Event::kChecksums);
  }
  if (!backendTakes(header.flags, header.gsoType)) {
    beginSegments(header, bytes);
    return;
  }
  header.write(frame, headerBytes_);
  submitFrame(bytes, straight);
  if (header.gsoType != kGsoNone || tx_.unpublished() >= kPublishBatch) publishTx();
}

// true: go on reading.
bool QueuePair::readFailed() noexcept {
  switch (errno) {
    case EAGAIN:
      return false;
    case EINTR:
      return true;
    case EFAULT:
      loseMemory();
      return false;
    case EBADFD:
    case ENODEV:
    case ENXIO:
    case ECONNRESET:
    case ENOTCONN:
      tapGone("read from the TAP: the device is gone");
      return false;
    default:
      counters_.drop(Drop::kTxInvalid);
      return false;
  }
}

// Posts the frame in the scratch, or straight where it shall lie, for which there is room: its start in a head and,
// where it is longer, the rest in a tail.
void QueuePair::submitFrame(uint32_t bytes, bool straight) noexcept {
  const uint16_t head = tx_.peekFree();
  counters_.txFrames.add(1);
  counters_.txBytes.add(bytes - headerBytes_);
  const uint16_t tail = bytes > kTxHeadBytes ? takeTail() : kNoTail;
  if (!straight) copyFrame(bytes, head, tail);
  if (tail != kNoTail) {
    submitChain(head, kTxHeadBytes, tailLabel_ + uint64_t{kTxTailBytes} * tail, bytes - kTxHeadBytes, tail);
    return;
  }
  tx_.with([=, this](auto& queue) noexcept {
    queue.allocate();
    queue.describe(head, headLabel_ + uint64_t{kTxHeadBytes} * head, bytes, 0, 0);
    queue.submit(head, 1, bytes, kNoTail);
  });
}

void QueuePair::copyFrame(uint32_t bytes, uint16_t head, uint16_t tail) noexcept {
  uint8_t* const frame = pump_->scratch->frame.data();
  if (bytes < kStreamLeastBytes) {
    std::memcpy(txHead(head), frame, bytes);
    return;
  }
  fillStreamUnit(frame, bytes);
  streamCopy(txHead(head), frame, std::min(bytes, kTxHeadBytes));
  if (tail != kNoTail) streamCopy(txTail(tail), frame + kTxHeadBytes, bytes - kTxHeadBytes);
}

// `head` is the next free descriptor; the chain is the start of its buffer and a slice (its label) of a tail.
void QueuePair::submitChain(uint16_t head, uint32_t headBytes, uint64_t slice, uint32_t sliceBytes,
                            uint16_t tail) noexcept {
  tx_.with([=, this](auto& queue) noexcept {
    queue.allocate();
    const uint64_t headLabel = headLabel_ + uint64_t{kTxHeadBytes} * head;
    uint16_t chain = 1;
    if (tableBase_ != nullptr) {
      queue.describeTable(head, txTable(head), {headLabel, headBytes}, {slice, sliceBytes});
    } else {
      const uint16_t second = queue.allocate();
      queue.describe(head, headLabel, headBytes, kDescNext, second);
      queue.describe(second, slice, sliceBytes, 0, 0);
      chain = 2;
    }
    queue.submit(head, chain, headBytes + sliceBytes, tail);
  });
}

void QueuePair::publishTx() noexcept {
  streamFence();
  tx_.publish();
  kick(kickTx_, tx_);
}

void QueuePair::inject(const uint8_t* frame, uint32_t bytes) noexcept {
  if (state_ == PairState::kRunning) reap();
  if (state_ != PairState::kRunning || shared_->broken.load(std::memory_order_relaxed) || !haveTxRoom() ||
      bytes < kEthernetBytes || bytes + headerBytes_ > kTxHeadBytes) {
    counters_.drop(Drop::kTxInject);
    return;
  }
  uint8_t* const place = pump_->scratch->frame.data();
  std::memset(place, 0, headerBytes_);
  std::memcpy(place + headerBytes_, frame, bytes);
  submitFrame(bytes + headerBytes_, false);
  publishTx();
}

// A living backend takes what waits within microseconds, whatever its load; one whose process was stopped never does,
// and its socket stays open.
void QueuePair::watchForStall() noexcept {
  const bool waits = state_ == PairState::kRunning && tx_.outstanding() != 0 && !tx_.usedPending();
  stalledSeconds_ = waits && reaped_ == reapedSeen_ ? stalledSeconds_ + 1 : 0;
  reapedSeen_ = reaped_;
  if (stalledSeconds_ == 0 || stalledSeconds_ % kStallSeconds != 0 || !shared_->listener) return;
  shared_->listener(PortEventKind::kBackendStalled, "the backend takes no frames");
}

// The hold time has passed: what waits in the TAP is old, and is dropped.
uint32_t QueuePair::discardBurst() noexcept {
  uint32_t frames = 0;
  std::array<uint8_t, 64> start;
  for (; frames < kBurst; ++frames) {
    // The TAP gives the start of a frame and forgets the rest.
    const iovec part{start.data(), start.size()};
    const ssize_t got = vuReadTap(tap_.get(), &part, 1);
    if (got == 0) tapGone("read from the TAP: end of file");
    if (got < 0 && readFailed()) continue;
    if (got <= 0) break;
    counters_.drop(Drop::kTxDiscarded);
  }
  return frames;
}

}  // namespace vu
