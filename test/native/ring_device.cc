#include "ring_device.h"

#include <unistd.h>

namespace vu::test {

void RingDevice::hold(const Chain& chain) {
  if (slots_[chain.head] != 0) complain("head " + std::to_string(chain.head) + " made available twice");
  slots_[chain.head] = chain.slots;
  bytes_[chain.head] = chain.bytes();
  heldSlots_ += slots_[chain.head];
  ++heldCount_;
  if (heldSlots_ > size_) complain("more descriptors with the device than the ring has");
  if (setup_.features.inOrder) order_.push_back(chain.head);
}

void RingDevice::addSegment(Chain& chain, uint64_t label, uint32_t len, uint16_t flags) {
  if (((flags & kDescWrite) != 0) != setup_.writable) complain("descriptor with the wrong direction");
  if ((flags & ~(kDescNext | kDescWrite)) != 0) complain("descriptor with unknown flags");
  if (len == 0) complain("empty descriptor");
  uint8_t* host = setup_.memory.host(label, len);
  if (host == nullptr) complain("descriptor outside the shared memory");
  chain.segments.push_back({host, len});
}

void RingDevice::addTable(Chain& chain, uint64_t label, uint32_t len, uint16_t flags, bool chained) {
  if (!setup_.indirect) complain("indirect table without INDIRECT_DESC");
  if (flags != kDescIndirect) complain("descriptor of a table with other flags");
  if (len == 0 || len % 16 != 0 || len / 16 > size_) complain("table of a wrong length");
  uint8_t* const host = setup_.memory.host(label, len);
  if (host == nullptr) {
    complain("table outside the shared memory");
    return;
  }
  if (!chained) {
    for (uint32_t i = 0; i < len / 16; ++i) {
      const PackedDesc& entry = reinterpret_cast<PackedDesc*>(host)[i];
      const uint16_t entryFlags = loadPlain(&entry.flags);
      if ((entryFlags & ~kDescWrite) != 0) complain("entry of a packed table with flags other than WRITE");
      addSegment(chain, loadPlain(&entry.addr), loadPlain(&entry.len), entryFlags);
    }
    return;
  }
  uint32_t index = 0;
  for (uint32_t seen = 0;; ++seen) {
    const VringDesc entry = loadPlain(&reinterpret_cast<VringDesc*>(host)[index]);
    addSegment(chain, entry.addr, entry.len, entry.flags);
    if ((entry.flags & kDescNext) == 0) break;
    index = entry.next;
    if (index >= len / 16 || seen >= len / 16) {
      complain("next beyond the table, or a loop");
      break;
    }
  }
}

void RingDevice::push(uint16_t head, uint32_t len) {
  if (slots_[head] == 0) complain("test returns a head that it does not hold");
  if (setup_.features.inOrder) {
    if (order_[orderDone_] != head) complain("test completes out of order");
    if (++orderDone_ == order_.size()) {
      order_.clear();
      orderDone_ = 0;
    }
  }
  if (!batchOpen_) batchPlace_ = usedPlace_;
  usedPlace_ += step(slots_[head]);
  write(batchPlace_, head, len);
  batchOpen_ = setup_.features.inOrder && (!setup_.writable || len == bytes_[head]);
  heldSlots_ -= slots_[head];
  slots_[head] = 0;
  --heldCount_;
}

bool RingDevice::notify() {
  fullFence();
  if (!callWanted()) return false;
  const uint64_t one = 1;
  if (setup_.callFd >= 0) (void)!::write(setup_.callFd, &one, sizeof one);
  return true;
}

uint64_t RingDevice::drainKicks() {
  uint64_t count = 0;
  if (::read(setup_.kickFd, &count, sizeof count) != static_cast<ssize_t>(sizeof count)) return 0;
  return count;
}

bool SplitDevice::pop(Chain& chain) {
  const uint16_t waiting = available();
  if (waiting == 0) return false;
  if (waiting + held() > size_) complain("more chains available than descriptors");
  const uint16_t head = loadPlain(&ring_.availRing[lastAvail_ & (size_ - 1)]);
  ++lastAvail_;
  if (head >= size_) {
    complain("available head beyond the ring");
    return false;
  }
  chain.head = head;
  chain.slots = 0;
  chain.segments.clear();
  uint16_t index = head;
  for (;;) {
    if (setup_.features.inOrder && index != nextDescriptor_) complain("descriptors are not used in ring order");
    nextDescriptor_ = static_cast<uint16_t>(index + 1U == size_ ? 0 : index + 1);
    const VringDesc desc = loadPlain(&ring_.desc[index]);
    ++chain.slots;
    if ((desc.flags & kDescIndirect) != 0) {
      addTable(chain, desc.addr, desc.len, desc.flags, true);
    } else {
      addSegment(chain, desc.addr, desc.len, desc.flags);
    }
    if ((desc.flags & kDescNext) == 0) break;
    index = desc.next;
    if (index >= size_ || chain.slots == size_) {
      complain("next beyond the ring, or a loop");
      break;
    }
  }
  hold(chain);
  return true;
}

void SplitDevice::write(uint64_t place, uint16_t head, uint32_t len) {
  storePlain(&ring_.usedRing[place % size_], VringUsedElem{head, len});
}

void SplitDevice::publish() {
  published_ = static_cast<uint16_t>(usedPlace_);
  batchOpen_ = false;
  storeRelease(ring_.usedIdx, published_);
}

bool SplitDevice::callWanted() {
  const uint16_t old = callChecked_;
  callChecked_ = published_;
  if (!setup_.features.eventIdx) return (loadRelaxed(ring_.availFlags) & kAvailNoInterrupt) == 0;
  if (loadRelaxed(ring_.availFlags) != 0) complain("avail flags set with EVENT_IDX");
  return needEvent(loadRelaxed(ring_.usedEvent), published_, old);
}

bool SplitDevice::armKicks() {
  if (setup_.features.eventIdx) {
    storeRelaxed(ring_.availEvent, lastAvail_);
  } else {
    storeRelaxed(ring_.usedFlags, 0);
  }
  fullFence();
  return available() != 0;
}

void SplitDevice::suppressKicks() {
  if (!setup_.features.eventIdx) storeRelaxed(ring_.usedFlags, kUsedNoNotify);
}

bool SplitDevice::callArmed() { return loadAcquire(ring_.usedEvent) == static_cast<uint16_t>(usedPlace_); }

void SplitDevice::forge(uint32_t id, uint32_t len) {
  storePlain(&ring_.usedRing[usedPlace_ % size_], VringUsedElem{id, len});
  ++usedPlace_;
}

bool PackedDevice::availableAt(uint64_t place) const {
  const uint16_t flags = loadAcquire(&ring_.desc[slotAt(place)].flags);
  return ((flags & kPackedAvail) != 0) == wrapAt(place) && ((flags & kPackedUsed) != 0) != wrapAt(place);
}

uint16_t PackedDevice::available() {
  uint16_t chains = 0;
  const uint64_t end = availPlace_ + size_ - heldSlots_;
  for (uint64_t place = availPlace_; place < end && availableAt(place); ++chains) {
    while (place < end && (loadRelaxed(&ring_.desc[slotAt(place)].flags) & kDescNext) != 0) ++place;
    ++place;
  }
  return chains;
}

bool PackedDevice::pop(Chain& chain) {
  // A full lap that we hold looks like the next one only if the driver has gone too far.
  if (!availableAt(availPlace_)) return false;
  chain.slots = 0;
  chain.segments.clear();
  for (;;) {
    if (!availableAt(availPlace_)) complain("descriptor of a chain is not available with it");
    const PackedDesc& desc = ring_.desc[slotAt(availPlace_)];
    const auto flags = static_cast<uint16_t>(loadPlain(&desc.flags) & ~(kPackedAvail | kPackedUsed));
    ++chain.slots;
    if ((flags & kDescIndirect) != 0) {
      addTable(chain, loadPlain(&desc.addr), loadPlain(&desc.len), flags, false);
    } else {
      addSegment(chain, loadPlain(&desc.addr), loadPlain(&desc.len), flags);
    }
    // Only the id of the last descriptor counts (virtio 1.2, 2.8.6).
    chain.head = loadPlain(&desc.id);
    ++availPlace_;
    if ((flags & kDescNext) == 0) break;
    if (chain.slots == size_) {
      complain("chain longer than the ring");
      break;
    }
  }
  if (chain.head >= size_) {
    complain("buffer id beyond the ring");
    return false;
  }
  hold(chain);
  return true;
}

void PackedDevice::write(uint64_t place, uint16_t head, uint32_t len) {
  PackedDesc& desc = ring_.desc[slotAt(place)];
  storePlain(&desc.id, head);
  storePlain(&desc.len, len);
  if (unpublished_.empty() || unpublished_.back() != place) unpublished_.push_back(place);
}

// The first one last: the driver goes from slot to slot.
void PackedDevice::publish() {
  published_ = usedPlace_;
  batchOpen_ = false;
  for (size_t i = unpublished_.size(); i-- > 0;) {
    const bool wrap = wrapAt(unpublished_[i]);
    const auto flags =
        static_cast<uint16_t>((wrap ? kPackedAvail | kPackedUsed : 0) | (setup_.writable ? kDescWrite : 0));
    storeRelease(&ring_.desc[slotAt(unpublished_[i])].flags, flags);
  }
  unpublished_.clear();
}

bool PackedDevice::callWanted() {
  const uint64_t old = callChecked_;
  callChecked_ = published_;
  switch (loadAcquire(&ring_.driver->flags)) {
    case kEventEnable:
      return true;
    case kEventDisable:
      return false;
    case kEventDesc:
      break;
    default:
      complain("reserved value of the driver's event flags");
      return true;
  }
  if (!setup_.features.eventIdx) complain("event at a descriptor without EVENT_IDX");
  const uint16_t event = loadRelaxed(&ring_.driver->offWrap);
  for (uint64_t place = old; place < published_; ++place) {
    if (eventAt(place) == event) return true;
  }
  return false;
}

bool PackedDevice::armKicks() {
  if (setup_.features.eventIdx) {
    storeRelaxed(&ring_.device->offWrap, eventAt(availPlace_));
    storeRelease(&ring_.device->flags, kEventDesc);
  } else {
    storeRelaxed(&ring_.device->flags, kEventEnable);
  }
  fullFence();
  return availableAt(availPlace_);
}

void PackedDevice::suppressKicks() { storeRelaxed(&ring_.device->flags, kEventDisable); }

bool PackedDevice::callArmed() {
  return loadAcquire(&ring_.driver->flags) == kEventDesc && loadAcquire(&ring_.driver->offWrap) == eventAt(usedPlace_);
}

void PackedDevice::forge(uint32_t id, uint32_t len) {
  write(usedPlace_, static_cast<uint16_t>(id), len);
  ++usedPlace_;
}

void PackedDevice::forgeFlags(bool avail, bool used) {
  storeRelease(&ring_.desc[slotAt(usedPlace_)].flags,
               static_cast<uint16_t>((avail ? kPackedAvail : 0) | (used ? kPackedUsed : 0)));
}

}  // namespace vu::test
