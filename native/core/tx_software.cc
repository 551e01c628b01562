// Transmit for a backend without checksum or segmentation offload: what it lacks is done here before it is posted.
//
// A frame is read in one piece into a tail buffer. Small ones move to their dense head; a TSO frame stays and is posted
// as chains [headers in a head][slice of the tail], the tail counted by its segments and free when all are used.
#include <cstring>

#include "checksum.h"
#include "queue_pair.h"

namespace vu {
namespace {

// A large frame does not wait for its last segment.
constexpr uint16_t kPublishSegments = 16;

}  // namespace

uint32_t QueuePair::txSoftwareBurst() noexcept {
  // There is room, so a frame left over from the last burst makes progress: that is work.
  const uint32_t resumed = segmentation_.active ? 1 : 0;
  uint32_t frames = 0;
  for (; frames < kBurst && state_ == PairState::kRunning; ++frames) {
    if (segmentation_.active && !emitSegments()) break;
    if (!makeTxRoom()) break;
    const uint16_t tail = txState_.queue->freeTail;
    uint8_t* const buffer = txTail(tail);
    const ssize_t got = ::read(tap_.get(), buffer, kTxTailBytes);
    if (got <= 0) {
      if (got == 0) tapGone("read from the TAP: end of file");
      if (got < 0 && readFailed()) continue;
      break;
    }
    if (!readable(got, kTxTailBytes)) continue;
    const auto bytes = static_cast<uint32_t>(got);
    VnetHdr header = VnetHdr::read(buffer, headerBytes_);
    header.flags &= kHdrNeedsCsum;
    header.numBuffers = 0;
    if (header.gsoType == kGsoNone && header.flags != 0 && (features_ & kFeatureCsum) == 0) {
      if (!options_.softwareChecksum) {
        counters_.drop(Drop::kTxUnsupported);
        continue;
      }
      if (!completeChecksum(buffer + headerBytes_, bytes - headerBytes_, header.csumStart, header.csumOffset)) {
        counters_.drop(Drop::kTxInvalid);
        continue;
      }
      header = VnetHdr{};
      counters_.event(Event::kChecksums);
    }
    if (backendTakes(header.flags, header.gsoType)) {
      header.write(buffer, headerBytes_);
      if (forwardWhole(tail, bytes) || tx_.unpublished() >= kPublishBatch) publishTx();
      continue;
    }
    const uint8_t type = header.gsoType & static_cast<uint8_t>(~kGsoEcn);
    if (!options_.softwareGso || (type != kGsoTcp4 && type != kGsoTcp6)) {
      counters_.drop(Drop::kTxUnsupported);
      continue;
    }
    if (!planSegments(buffer + headerBytes_, bytes - headerBytes_, header, segmentation_.plan)) {
      counters_.drop(Drop::kTxInvalid);
      continue;
    }
    segmentation_.tail = takeTail();
    segmentation_.next = 0;
    segmentation_.active = true;
    counters_.txFrames.add(1);
    counters_.txBytes.add(bytes - headerBytes_);
    counters_.event(Event::kGsoFrames);
  }
  // The burst may have ended on a frame that was only planned.
  if (state_ == PairState::kRunning && segmentation_.active) emitSegments();
  if (state_ == PairState::kRunning && tx_.unpublished() != 0) publishTx();
  return frames + resumed;
}

// The frame lies in the next free tail. Returns whether it was a large one.
bool QueuePair::forwardWhole(uint16_t tail, uint32_t bytes) noexcept {
  if (bytes <= kTxHeadBytes) {
    const uint16_t head = tx_.peekFree();
    std::memcpy(txHead(head), txTail(tail), bytes);
    submitFrame(head, tail, bytes);
    return false;
  }
  const uint16_t head = tx_.allocate();
  takeTail();
  tx_.describe(head, tailLabel_ + uint64_t{kTxTailBytes} * tail, bytes, 0, 0);
  tx_.submit(head, 1, bytes, tail);
  counters_.txFrames.add(1);
  counters_.txBytes.add(bytes - headerBytes_);
  return true;
}

// Posts segments while there are descriptors. false: some are left, and the ring is full or broken.
bool QueuePair::emitSegments() noexcept {
  TxSegmentation& work = segmentation_;
  const uint64_t frameOffset = uint64_t{kTxTailBytes} * work.tail + headerBytes_;
  const uint8_t* const frame = tailBase_ + frameOffset;
  const bool checksum = (features_ & kFeatureCsum) == 0;
  for (; work.next < work.plan.count; ++work.next) {
    if (tx_.freeCount() < txSlots_) {
      reap();
      if (state_ != PairState::kRunning) return false;
      if (tx_.freeCount() < txSlots_) {
        setBlocked(true);
        return false;
      }
    }
    const uint16_t head = tx_.peekFree();
    const SegmentPart part = writeSegment(work.plan, work.next, frame, headerBytes_, checksum, txHead(head));
    ++txState_.tailRefs[work.tail];
    submitChain(head, part.slabBytes, tailLabel_ + frameOffset + part.sliceOffset, part.sliceBytes, work.tail);
    counters_.event(Event::kGsoSegments);
    if (tx_.unpublished() >= kPublishSegments) publishTx();
    if (state_ != PairState::kRunning) return false;
  }
  work.active = false;
  dropTail(work.tail);
  return true;
}

// The session ends with a frame half posted.
void QueuePair::dropSegmentation() noexcept {
  if (!segmentation_.active) return;
  segmentation_.active = false;
  dropTail(segmentation_.tail);
  counters_.drop(Drop::kTxLost);
}

}  // namespace vu
