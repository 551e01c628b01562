#include "virtq_packed.h"

namespace vu {

bool PackedVirtq::shouldKick() noexcept {
  fullFence();
  const uint32_t added = kickSlots_ < size_ ? kickSlots_ : size_;
  kickSlots_ = 0;
  // Flags before position: the device writes them in the other order.
  switch (loadAcquire(&ring_.device->flags)) {
    case kEventDisable:
      return false;
    case kEventDesc:
      return !eventIdx_ || needPackedEvent(loadRelaxed(&ring_.device->offWrap),
                                           PackedCursor::of(state_.queue->availIdx), added, size_);
    default:
      return true;
  }
}

// One copy; the backend may rewrite the element at any time.
PackedDesc PackedVirtq::copyUsed(uint16_t slot) const noexcept {
  PackedDesc& desc = ring_.desc[slot];
  PackedDesc copy{};
  copy.id = loadRelaxed(&desc.id);
  copy.len = loadRelaxed(&desc.len);
  return copy;
}

PackedVirtq::Take PackedVirtq::take(UsedHead& used) noexcept {
  if (broken_ != nullptr) return Take::kBroken;
  QueueState& queue = *state_.queue;
  PackedCursor at = PackedCursor::of(queue.lastUsed);
  if (batchPending()) {
    takeOfBatch(used);
  } else {
    const uint16_t flags = loadAcquire(&ring_.desc[at.slot].flags);
    if (!isUsed(flags, at.wrap)) {
      // While something is with the device this slot is as we made it available, or used.
      if (published() == 0 || ((flags & kPackedAvail) != 0) == at.wrap) return Take::kNone;
      markBroken("used flags do not fit the wrap counter");
      return Take::kBroken;
    }
    if (published() == 0) {
      markBroken("used descriptor while nothing is outstanding");
      return Take::kBroken;
    }
    const PackedDesc element = copyUsed(at.slot);
    const uint16_t batch = judge(element.id, published());
    if (batch == 0) return Take::kBroken;
    takeFirst(batch, element.id, element.len, used);
  }
  at.advance(used.chain, size_);
  queue.lastUsed = at.encoded();
  return Take::kTaken;
}

void PackedVirtq::enableCalls(uint16_t after) noexcept {
  if (eventIdx_) {
    PackedCursor event = PackedCursor::of(state_.queue->lastUsed);
    event.advance(after, size_);
    storeRelaxed(&ring_.driver->offWrap, event.encoded());
    storeRelease(&ring_.driver->flags, kEventDesc);
  } else {
    storeRelaxed(&ring_.driver->flags, kEventEnable);
  }
  fullFence();
}

uint16_t PackedVirtq::deviceUsed() const noexcept {
  PackedCursor at = PackedCursor::of(state_.queue->lastUsed);
  uint32_t left = published();
  uint32_t order = oldest();
  const auto passOldest = [&]() noexcept {
    const uint16_t head = state_.order[order].head;
    order = order + 1 == size_ ? 0 : order + 1;
    at.advance(state_.heads[head].chain, size_);
    --left;
    return head;
  };
  for (uint32_t rest = state_.queue->batchLeft; rest != 0; --rest) passOldest();
  while (left != 0 && isUsed(loadAcquire(&ring_.desc[at.slot].flags), at.wrap)) {
    const uint16_t id = copyUsed(at.slot).id;
    if (id >= size_ || state_.heads[id].chain == 0) break;
    if (inOrder_) {
      while (passOldest() != id && left != 0) {
      }
    } else {
      at.advance(state_.heads[id].chain, size_);
      --left;
    }
  }
  return at.encoded();
}

}  // namespace vu
