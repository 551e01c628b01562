// Driver side of one split virtqueue: submit, publish, kick decision, take used elements, call suppression.
//
// Not thread-safe: one pump thread at a time. Nothing that the backend wrote is used before it was copied and judged;
// the first impossible value breaks the queue for good (broken() names it) and nothing is touched after that.
#pragma once

#include <cstdint>

#include "queue_state.h"
#include "vring.h"

namespace vu {

// A used element after all checks: the head was with the device and is ours again.
struct UsedHead {
  uint16_t head;
  // Descriptors of its chain: what release() of a transmit chain needs.
  uint16_t chain;
  uint16_t tail;
  // As the device wrote it; not compared with what was posted, see `posted`.
  uint32_t len;
  uint32_t posted;
};

class SplitVirtq {
 public:
  enum class Take : uint8_t { kNone, kTaken, kBroken };

  SplitVirtq() noexcept = default;
  SplitVirtq(const Vring& ring, const QueueStateView& state, bool eventIdx) noexcept
      : ring_(ring),
        state_(state),
        mask_(static_cast<uint16_t>(ring.size - 1)),
        eventIdx_(eventIdx),
        availNext_(state.queue->availIdx),
        kickChecked_(state.queue->availIdx),
        usedSeen_(state.queue->lastUsed) {}

  // First use of zeroed state: every descriptor is free, in the order 0, 1, 2, …
  void initFreeList() noexcept;

  uint16_t freeCount() const noexcept { return state_.queue->freeCount; }
  uint16_t outstanding() const noexcept { return state_.queue->outstanding; }
  uint16_t lastUsed() const noexcept { return state_.queue->lastUsed; }
  uint16_t availIdx() const noexcept { return state_.queue->availIdx; }
  uint32_t size() const noexcept { return ring_.size; }
  const char* broken() const noexcept { return broken_; }
  const HeadState& headState(uint16_t head) const noexcept { return state_.heads[head]; }

  // The descriptor that allocate() will return next; freeCount() must not be 0.
  uint16_t peekFree() const noexcept { return state_.queue->freeHead; }
  uint16_t allocate() noexcept {
    QueueState& queue = *state_.queue;
    const uint16_t index = queue.freeHead;
    queue.freeHead = state_.next[index];
    --queue.freeCount;
    return index;
  }
  void describe(uint16_t index, uint64_t label, uint32_t len, uint16_t flags, uint16_t next) noexcept {
    ring_.desc[index] = VringDesc{label, len, flags, next};
    if ((flags & kDescNext) != 0) state_.next[index] = next;
  }
  // Queues a described chain for publish(). Records it first: what is published is always known to the state.
  void submit(uint16_t head, uint16_t chain, uint32_t bytes, uint16_t tail) noexcept {
    state_.heads[head] = HeadState{bytes, chain, tail};
    ++state_.queue->outstanding;
    ring_.availRing[availNext_ & mask_] = head;
    ++availNext_;
  }
  uint16_t unpublished() const noexcept { return static_cast<uint16_t>(availNext_ - state_.queue->availIdx); }
  // Release store of avail.idx: descriptors and ring entries are visible before it (virtio 1.2, 2.7.13.3).
  void publish() noexcept {
    state_.queue->availIdx = availNext_;
    storeRelease(ring_.availIdx, availNext_);
  }
  // After publish(): must the backend be woken? Fences first, asks once per published range.
  bool shouldKick() noexcept;

  // Cheap look: is there a used element to take?
  bool usedPending() const noexcept { return loadAcquire(ring_.usedIdx) != state_.queue->lastUsed; }
  Take take(UsedHead& used) noexcept;
  // Returns the descriptors of a taken transmit chain to the free list.
  void release(uint16_t head, uint16_t chain) noexcept;

  // Asks for a call when `after` more used elements are there; the caller looks at usedPending() again afterwards.
  void enableCalls(uint16_t after) noexcept;
  void disableCalls() noexcept;

  void markBroken(const char* reason) noexcept {
    if (broken_ == nullptr) broken_ = reason;
  }

 private:
  Vring ring_;
  QueueStateView state_;
  uint16_t mask_ = 0;
  bool eventIdx_ = false;
  // avail.idx to be: submitted, not yet published.
  uint16_t availNext_ = 0;
  uint16_t kickChecked_ = 0;
  // used.idx as last read: saves touching the line that the backend writes.
  uint16_t usedSeen_ = 0;
  const char* broken_ = nullptr;
};

}  // namespace vu
