#include "virtq_split.h"

namespace vu {

void SplitVirtq::initFreeList() noexcept {
  for (uint32_t i = 0; i < ring_.size; ++i) state_.next[i] = static_cast<uint16_t>(i + 1);
  state_.queue->freeHead = 0;
  state_.queue->freeCount = static_cast<uint16_t>(ring_.size);
}

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
  const uint32_t id = std::atomic_ref<uint32_t>(slot.id).load(std::memory_order_relaxed);
  const uint32_t len = std::atomic_ref<uint32_t>(slot.len).load(std::memory_order_relaxed);
  if (id >= ring_.size) {
    markBroken("used id is not a descriptor of the ring");
    return Take::kBroken;
  }
  HeadState& head = state_.heads[id];
  if (head.chain == 0) {
    markBroken("used id is not outstanding");
    return Take::kBroken;
  }
  used = UsedHead{static_cast<uint16_t>(id), head.chain, head.tail, len, head.bytes};
  head.chain = 0;
  --queue.outstanding;
  ++queue.lastUsed;
  return Take::kTaken;
}

void SplitVirtq::release(uint16_t head, uint16_t chain) noexcept {
  QueueState& queue = *state_.queue;
  uint16_t last = head;
  for (uint16_t i = 1; i < chain; ++i) last = state_.next[last];
  state_.next[last] = queue.freeHead;
  queue.freeHead = head;
  queue.freeCount = static_cast<uint16_t>(queue.freeCount + chain);
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
