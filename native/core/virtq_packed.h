// Driver side of one packed virtqueue, with the interface of SplitVirtq.
//
// A buffer id is the index of the chain's first descriptor as in a split ring, so that the books are the same; slots of
// the ring are filled in order, whatever the ids. A chain of n descriptors takes n slots and n ids. The device writes
// used elements over our descriptors: nothing but the slot at the used cursor is ever read, and once.
#pragma once

#include <cstdint>

#include "virtq_books.h"
#include "vring_packed.h"

namespace vu {

class PackedVirtq : public VirtqBooks {
 public:
  PackedVirtq() noexcept = default;
  // `state` holds cursors (PackedCursor::encoded()): kPackedStart in both for a new ring.
  PackedVirtq(const PackedRing& ring, const QueueStateView& state, const VirtqFeatures& features) noexcept
      : VirtqBooks(ring.size, state, features), ring_(ring), next_(PackedCursor::of(state.queue->availIdx)) {}

  uint16_t lastUsed() const noexcept { return state_.queue->lastUsed; }
  uint16_t availIdx() const noexcept { return state_.queue->availIdx; }

  // Fills the next slot; the descriptors of one chain one after another, then submit().
  void describe(uint16_t index, uint64_t label, uint32_t len, uint16_t flags, uint16_t next) noexcept {
    if (chainSlots_ == 0) chainHead_ = index;
    PackedDesc& slot = ring_.desc[next_.slot];
    storePlain(&slot.addr, label);
    storePlain(&slot.len, len);
    storePlain(&slot.id, chainHead_);
    const auto marked = static_cast<uint16_t>(flags | next_.availFlags());
    if (unpublished_ == 0 && chainSlots_ == 0) {
      // The device goes from slot to slot: it sees nothing of what follows before it sees this one.
      first_ = next_.slot;
      firstFlags_ = marked;
    } else {
      storeRelaxed(&slot.flags, marked);
    }
    next_.advance(1, size_);
    ++chainSlots_;
    if ((flags & kDescNext) != 0) state_.next[index] = next;
  }
  // The same for a chain of two parts that the device reads: `table` is the chain's until it is released. Its entries
  // have neither id nor NEXT: they follow each other.
  void describeTable(uint16_t index, const DescTable& table, const DescPart& first, const DescPart& second) noexcept {
    auto* const entries = reinterpret_cast<PackedDesc*>(table.host);
    storePlain(&entries[0], PackedDesc{first.label, first.len, 0, 0});
    storePlain(&entries[1], PackedDesc{second.label, second.len, 0, 0});
    describe(index, table.label, DescTable::kBytes, kDescIndirect, 0);
  }
  void submit(uint16_t head, uint16_t chain, uint32_t bytes, uint16_t tail) noexcept {
    record(head, head, chain, bytes, tail);
    ++unpublished_;
    kickSlots_ += chainSlots_;
    chainSlots_ = 0;
  }
  // Submits a receive buffer again: its descriptor was overwritten.
  void repost(uint16_t head, uint64_t label, uint32_t len) noexcept {
    describe(head, label, len, kDescWrite, 0);
    submit(head, 1, len, kNoTail);
  }
  uint16_t unpublished() const noexcept { return unpublished_; }
  // Release store of the first descriptor's flags: everything else of the batch is visible before it (2.8.21).
  void publish() noexcept {
    if (unpublished_ == 0) return;
    state_.queue->availIdx = next_.encoded();
    unpublished_ = 0;
    storeRelease(&ring_.desc[first_].flags, firstFlags_);
  }
  bool shouldKick() noexcept;

  bool usedPending() const noexcept {
    const PackedCursor at = PackedCursor::of(state_.queue->lastUsed);
    return batchPending() || isUsed(loadAcquire(&ring_.desc[at.slot].flags), at.wrap);
  }
  Take take(UsedHead& used) noexcept;

  // `after` counts descriptor slots here: a call comes after that many used elements at the latest.
  void enableCalls(uint16_t after) noexcept;
  void disableCalls() noexcept { storeRelaxed(&ring_.driver->flags, kEventDisable); }
  void startWithoutCalls() noexcept { disableCalls(); }

  // Cursor (encoded) at which the device should stop: behind what it has used and we have not taken. Changes nothing.
  uint16_t deviceUsed() const noexcept;

 private:
  // Chains that the device may use.
  uint32_t published() const noexcept { return uint32_t{state_.queue->outstanding} - unpublished_; }
  PackedDesc copyUsed(uint16_t slot) const noexcept;

  PackedRing ring_;
  // Next slot to fill; the published cursor is in the state.
  PackedCursor next_;
  // Slot whose flags publish() writes, and these flags.
  uint16_t first_ = 0;
  uint16_t firstFlags_ = 0;
  uint16_t chainHead_ = 0;
  uint16_t chainSlots_ = 0;
  uint16_t unpublished_ = 0;
  // Slots filled since shouldKick() was asked.
  uint32_t kickSlots_ = 0;
};

}  // namespace vu
