// Driver side of one split virtqueue: submit, publish, kick decision, take used elements, call suppression.
//
// Not thread-safe: one pump thread at a time. Nothing that the backend wrote is used before it was copied and judged;
// the first impossible value breaks the queue for good (broken() names it) and nothing is touched after that.
#pragma once

#include <cstdint>

#include "virtq_books.h"
#include "vring.h"

namespace vu {

class SplitVirtq : public VirtqBooks {
 public:
  SplitVirtq() noexcept = default;
  SplitVirtq(const Vring& ring, const QueueStateView& state, const VirtqFeatures& features) noexcept
      : VirtqBooks(ring.size, state, features),
        ring_(ring),
        mask_(static_cast<uint16_t>(ring.size - 1)),
        availNext_(state.queue->availIdx),
        kickChecked_(state.queue->availIdx),
        usedSeen_(state.queue->lastUsed),
        descriptorNext_(state.queue->descriptorNext) {}

  uint16_t lastUsed() const noexcept { return state_.queue->lastUsed; }
  uint16_t availIdx() const noexcept { return state_.queue->availIdx; }

  // Fills a descriptor of a chain; those of one chain one after another, then submit().
  void describe(uint16_t index, uint64_t label, uint32_t len, uint16_t flags, uint16_t next) noexcept {
    if ((flags & kDescNext) != 0) state_.next[index] = next;
    if (inOrder_) [[unlikely]] {
      describeInOrder(label, len, flags);
    } else {
      storePlain(&ring_.desc[index], VringDesc{label, len, flags, next});
    }
  }
  // The same for a chain of two parts that the device reads: `table` is the chain's until it is released.
  void describeTable(uint16_t index, const DescTable& table, const DescPart& first, const DescPart& second) noexcept {
    auto* const entries = reinterpret_cast<VringDesc*>(table.host);
    storePlain(&entries[0], VringDesc{first.label, first.len, kDescNext, 1});
    storePlain(&entries[1], VringDesc{second.label, second.len, 0, 0});
    describe(index, table.label, DescTable::kBytes, kDescIndirect, 0);
  }
  // Queues a described chain for publish(). Records it first: what is published is always known to the state.
  void submit(uint16_t head, uint16_t chain, uint32_t bytes, uint16_t tail) noexcept {
    const uint16_t wire = inOrder_ ? state_.queue->descriptorNext : head;
    record(wire, head, chain, bytes, tail);
    if (inOrder_) state_.queue->descriptorNext = descriptorNext_;
    storePlain(&ring_.availRing[availNext_ & mask_], wire);
    ++availNext_;
  }
  // Submits a receive buffer again. Unless in order its descriptor has never changed; only the avail ring names it
  // anew.
  void repost(uint16_t head, uint64_t label, uint32_t len) noexcept {
    if (inOrder_) describeInOrder(label, len, kDescWrite);
    submit(head, 1, len, kNoTail);
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

  // Asks for a call when `after` more used elements are there; the caller looks at usedPending() again afterwards.
  void enableCalls(uint16_t after) noexcept;
  void disableCalls() noexcept;
  // Before the ring's first use: no calls until enableCalls().
  void startWithoutCalls() noexcept {
    if (eventIdx_) storeRelaxed(ring_.usedEvent, 0xffff);
    disableCalls();
  }

  // Index at which the device should stop: used.idx.
  uint16_t deviceUsed() const noexcept { return loadAcquire(ring_.usedIdx); }

 private:
  // Descriptors are free in the order in which they were used, so there is always one where the last chain ended.
  void describeInOrder(uint64_t label, uint32_t len, uint16_t flags) noexcept {
    const uint16_t at = descriptorNext_;
    descriptorNext_ = static_cast<uint16_t>(at + 1) & mask_;
    const uint16_t next = (flags & kDescNext) != 0 ? descriptorNext_ : uint16_t{0};
    storePlain(&ring_.desc[at], VringDesc{label, len, flags, next});
  }

  Vring ring_;
  uint16_t mask_ = 0;
  // avail.idx to be: submitted, not yet published.
  uint16_t availNext_ = 0;
  uint16_t kickChecked_ = 0;
  // used.idx as last read: saves touching the line that the backend writes.
  uint16_t usedSeen_ = 0;
  // In order: the descriptor to fill next; that of the next chain is in the state.
  uint16_t descriptorNext_ = 0;
};

}  // namespace vu
