// What split and packed virtqueues have in common: who owns which descriptor, in what order chains were submitted, and
// the judgement of a used element.
//
// Not thread-safe: one pump thread at a time. All of it lies in private memory (queue_state.h). The first impossible
// value breaks the queue for good (broken() names it).
#pragma once

#include <cstdint>

#include "queue_state.h"

namespace vu {

// A used element after all checks: the head was with the device and is ours again.
struct UsedHead {
  uint16_t head;
  // Descriptors of its chain: what release() of a transmit chain needs.
  uint16_t chain;
  uint16_t tail;
  // As the device wrote it, not compared with what was posted; equal to `posted` where a batch skipped the element.
  uint32_t len;
  uint32_t posted;
};

// A piece of shared memory that a descriptor names.
struct DescPart {
  uint64_t label;
  uint32_t len;
};

// INDIRECT_DESC: memory for a table of two descriptors, which takes one slot of the ring (virtio 1.2, 2.7.5.3
// and 2.8.7).
struct DescTable {
  static constexpr uint32_t kBytes = 2 * 16;

  uint8_t* host;
  uint64_t label;
};

struct VirtqFeatures {
  bool eventIdx = false;
  // The device uses buffers in the order in which they were made available, and may complete a batch with one used
  // element (virtio 1.2, 2.7.9 and 2.8.9).
  bool inOrder = false;
};

class VirtqBooks {
 public:
  enum class Take : uint8_t { kNone, kTaken, kBroken };

  VirtqBooks() noexcept = default;
  VirtqBooks(uint32_t size, const QueueStateView& state, const VirtqFeatures& features) noexcept
      : state_(state), size_(size), eventIdx_(features.eventIdx), inOrder_(features.inOrder) {}

  // First use of zeroed state: everything is free, in the order 0, 1, 2, …
  void initFreeList() noexcept {
    for (uint32_t i = 0; i < size_; ++i) state_.next[i] = static_cast<uint16_t>(i + 1);
    state_.queue->freeHead = 0;
    state_.queue->freeCount = static_cast<uint16_t>(size_);
  }

  uint16_t freeCount() const noexcept { return state_.queue->freeCount; }
  uint16_t outstanding() const noexcept { return state_.queue->outstanding; }
  uint32_t size() const noexcept { return size_; }
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
  // Returns the descriptors of a taken transmit chain to the free list.
  void release(uint16_t head, uint16_t chain) noexcept {
    QueueState& queue = *state_.queue;
    queue.freeCount = static_cast<uint16_t>(queue.freeCount + chain);
    uint16_t last = head;
    for (uint16_t i = 1; i < chain; ++i) last = state_.next[last];
    state_.next[last] = queue.freeHead;
    queue.freeHead = head;
  }

  void markBroken(const char* reason) noexcept {
    if (broken_ == nullptr) broken_ = reason;
  }

 protected:
  // `wire`: what the device will call the chain.
  void record(uint16_t wire, uint16_t head, uint16_t chain, uint32_t bytes, uint16_t tail) noexcept {
    QueueState& queue = *state_.queue;
    state_.heads[head] = HeadState{bytes, chain, tail};
    ++queue.outstanding;
    if (!inOrder_) [[likely]] {
      return;
    }
    state_.order[queue.orderNext] = Submission{wire, head};
    queue.orderNext = static_cast<uint16_t>(queue.orderNext + 1U == size_ ? 0 : queue.orderNext + 1);
  }

  // Number of chains that a used element with this id completes, at most `limit`; 0: it cannot be, and the queue is
  // broken. The walk is through our own record: what the device skipped in the ring is stale.
  uint16_t judge(uint32_t id, uint32_t limit) noexcept {
    if (id >= size_) {
      markBroken("used id is not a descriptor of the ring");
      return 0;
    }
    if (inOrder_) [[unlikely]] {
      return batchUpTo(id, limit);
    }
    if (state_.heads[id].chain != 0) return 1;
    markBroken("used id is not outstanding");
    return 0;
  }
  // Takes the first of `batch` chains; the others follow by takeOfBatch().
  void takeFirst(uint16_t batch, uint16_t id, uint32_t len, UsedHead& used) noexcept {
    if (!inOrder_) [[likely]] {
      hand(id, len, used);
      return;
    }
    state_.queue->batchLeft = batch;
    state_.queue->batchLen = len;
    takeOfBatch(used);
  }
  bool batchPending() const noexcept { return state_.queue->batchLeft != 0; }
  void takeOfBatch(UsedHead& used) noexcept {
    QueueState& queue = *state_.queue;
    const uint16_t head = state_.order[oldest()].head;
    --queue.batchLeft;
    // Skipped elements mean: used completely.
    hand(head, queue.batchLeft == 0 ? queue.batchLen : state_.heads[head].bytes, used);
  }

  // Where the record of the chain submitted longest ago lies.
  uint32_t oldest() const noexcept {
    const uint32_t next = state_.queue->orderNext;
    const uint32_t back = state_.queue->outstanding;
    return next >= back ? next - back : next + size_ - back;
  }

  QueueStateView state_;
  uint32_t size_ = 0;
  bool eventIdx_ = false;
  bool inOrder_ = false;
  const char* broken_ = nullptr;

 private:
  void hand(uint16_t id, uint32_t len, UsedHead& used) noexcept {
    HeadState& head = state_.heads[id];
    used = UsedHead{id, head.chain, head.tail, len, head.bytes};
    head.chain = 0;
    --state_.queue->outstanding;
  }
  uint16_t batchUpTo(uint32_t id, uint32_t limit) noexcept {
    uint32_t at = oldest();
    for (uint32_t count = 1; count <= state_.queue->outstanding; ++count) {
      if (state_.order[at].wire == id) {
        if (count <= limit) return static_cast<uint16_t>(count);
        markBroken("used id is out of order");
        return 0;
      }
      at = at + 1 == size_ ? 0 : at + 1;
    }
    markBroken("used id is not outstanding");
    return 0;
  }
};

}  // namespace vu
