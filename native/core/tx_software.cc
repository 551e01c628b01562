// Segmentation for a backend that lacks it: a TSO frame is copied to a tail as it is and posted as chains [headers in a
// head][slice of the tail], the tail counted by its segments and free when all are used.
#include "queue_pair.h"

namespace vu {
namespace {

// A large frame does not wait for its last segment.
constexpr uint16_t kPublishSegments = 16;

}  // namespace

// The frame in the scratch is none that the backend takes.
void QueuePair::beginSegments(const VnetHdr& header, uint32_t bytes) noexcept {
  const uint8_t type = header.gsoType & static_cast<uint8_t>(~kGsoEcn);
  if (!options_.softwareGso || (type != kGsoTcp4 && type != kGsoTcp6)) {
    counters_.drop(Drop::kTxUnsupported);
    return;
  }
  uint8_t* const frame = pump_->scratch->frame.data();
  TxSegmentation& work = segmentation_;
  if (!planSegments(frame + headerBytes_, bytes - headerBytes_, header, work.plan)) {
    counters_.drop(Drop::kTxInvalid);
    return;
  }
  work.tail = takeTail();
  work.next = 0;
  work.frame = frame + headerBytes_;
  work.active = true;
  fillStreamUnit(frame, bytes);
  streamCopy(txTail(work.tail), frame, bytes);
  counters_.txFrames.add(1);
  counters_.txBytes.add(bytes - headerBytes_);
  counters_.event(Event::kGsoFrames);
}

// Posts segments while there are descriptors. false: some are left, and the ring is full or broken.
bool QueuePair::emitSegments() noexcept {
  TxSegmentation& work = segmentation_;
  const uint64_t frameOffset = uint64_t{kTxTailBytes} * work.tail + headerBytes_;
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
    const SegmentPart part = writeSegment(work.plan, work.next, work.frame, headerBytes_, checksum, txHead(head));
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

// Another frame comes into the scratch before the rest is posted.
void QueuePair::keepSegments() noexcept { segmentation_.frame = txTail(segmentation_.tail) + headerBytes_; }

// The session ends with a frame half posted.
void QueuePair::dropSegmentation() noexcept {
  if (!segmentation_.active) return;
  segmentation_.active = false;
  dropTail(segmentation_.tail);
  counters_.drop(Drop::kTxLost);
}

}  // namespace vu
