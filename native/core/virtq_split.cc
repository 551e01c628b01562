#include "virtq_split.h"

namespace vu {

bool SplitVirtq::shouldKick() noexcept {
  fullFence();
  const uint16_t now = state_.queue->availIdx;
  const uint16_t old = kickChecked_;
  kickChecked_ = now;
  if (eventIdx_) return needEvent(loadRelaxed(ring_.availEvent), now, old);
  return (loadRelaxed(ring_.usedFlags) & kUsedNoNotify) == 0;
}

SplitVirtq::Take SplitVirtq::take(UsedHead& used) noexcept {
  if (broken_ != nullptr) return Take::kBroken;
  QueueState& queue = *state_.queue;
  if (inOrder_ && batchPending()) [[unlikely]] {
    takeOfBatch(used);
    ++queue.lastUsed;
    return Take::kTaken;
  }
  if (queue.lastUsed == usedSeen_) {
    const uint16_t now = loadAcquire(ring_.usedIdx);
    const auto jump = static_cast<uint16_t>(now - usedSeen_);
    if (jump == 0) return Take::kNone;
    if (jump > queue.outstanding - unpublished()) {
      markBroken("used index moved by more than what is outstanding");
      return Take::kBroken;
    }
    usedSeen_ = now;
  }
  // One copy; the backend may rewrite the element at any time.
  VringUsedElem& slot = ring_.usedRing[queue.lastUsed & mask_];
  const uint32_t id = loadRelaxed(&slot.id);
  const uint32_t len = loadRelaxed(&slot.len);
  const uint16_t batch = judge(id, static_cast<uint16_t>(usedSeen_ - queue.lastUsed));
  if (batch == 0) return Take::kBroken;
  takeFirst(batch, static_cast<uint16_t>(id), len, used);
  ++queue.lastUsed;
  return Take::kTaken;
}

void SplitVirtq::enableCalls(uint16_t after) noexcept {
  if (eventIdx_) {
    storeRelaxed(ring_.usedEvent, static_cast<uint16_t>(state_.queue->lastUsed + after));
  } else {
    storeRelaxed(ring_.availFlags, 0);
  }
  fullFence();
}

void SplitVirtq::disableCalls() noexcept {
  // With EVENT_IDX the flags must stay 0 and an event index that has been passed asks for nothing.
  if (!eventIdx_) storeRelaxed(ring_.availFlags, kAvailNoInterrupt);
}

}  // namespace vu
