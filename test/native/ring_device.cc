#include "ring_device.h"

#include <unistd.h>

namespace vu::test {

RingDevice::RingDevice(const Vring& ring, const AddressMap& memory, bool writable, bool eventIdx, int kickFd,
                       int callFd)
    : ring_(ring),
      memory_(memory),
      writable_(writable),
      eventIdx_(eventIdx),
      kickFd_(kickFd),
      callFd_(callFd),
      holding_(ring.size, false) {}

void RingDevice::complain(const std::string& what) {
  if (violation_.empty()) violation_ = what;
}

uint16_t RingDevice::available() { return static_cast<uint16_t>(loadAcquire(ring_.availIdx) - lastAvail_); }

bool RingDevice::pop(Chain& chain) {
  const uint16_t waiting = available();
  if (waiting == 0) return false;
  if (waiting + heldCount_ > ring_.size) complain("more chains available than descriptors");
  const uint16_t head = ring_.availRing[lastAvail_ & (ring_.size - 1)];
  ++lastAvail_;
  if (head >= ring_.size) {
    complain("available head beyond the ring");
    return false;
  }
  if (holding_[head]) complain("head " + std::to_string(head) + " made available twice");
  holding_[head] = true;
  ++heldCount_;
  chain.head = head;
  chain.segments.clear();
  uint16_t index = head;
  for (uint32_t i = 0;; ++i) {
    if (i == ring_.size) {
      complain("descriptor loop");
      break;
    }
    const VringDesc desc = ring_.desc[index];
    if (((desc.flags & kDescWrite) != 0) != writable_) complain("descriptor with the wrong direction");
    if ((desc.flags & ~(kDescNext | kDescWrite)) != 0) complain("descriptor with unknown flags");
    if (desc.len == 0) complain("empty descriptor");
    uint8_t* host = memory_.host(desc.addr, desc.len);
    if (host == nullptr) complain("descriptor outside the shared memory");
    chain.segments.push_back({host, desc.len});
    if ((desc.flags & kDescNext) == 0) break;
    index = desc.next;
    if (index >= ring_.size) {
      complain("next beyond the ring");
      break;
    }
  }
  return true;
}

void RingDevice::push(uint16_t head, uint32_t len) {
  if (!holding_[head]) complain("test returns a head that it does not hold");
  holding_[head] = false;
  --heldCount_;
  ring_.usedRing[usedIdx_ & (ring_.size - 1)] = VringUsedElem{head, len};
  ++usedIdx_;
}

void RingDevice::publish() {
  storeRelease(ring_.usedIdx, usedIdx_);
  published_ = usedIdx_;
}

bool RingDevice::notify() {
  fullFence();
  const uint16_t old = callChecked_;
  callChecked_ = published_;
  bool wanted = false;
  if (eventIdx_) {
    if (loadRelaxed(ring_.availFlags) != 0) complain("avail flags set with EVENT_IDX");
    wanted = needEvent(loadRelaxed(ring_.usedEvent), published_, old);
  } else {
    wanted = (loadRelaxed(ring_.availFlags) & kAvailNoInterrupt) == 0;
  }
  if (!wanted) return false;
  const uint64_t one = 1;
  if (callFd_ >= 0) (void)!::write(callFd_, &one, sizeof one);
  return true;
}

bool RingDevice::armKicks() {
  if (eventIdx_) {
    storeRelaxed(ring_.availEvent, lastAvail_);
  } else {
    storeRelaxed(ring_.usedFlags, 0);
  }
  fullFence();
  return available() != 0;
}

void RingDevice::suppressKicks() {
  if (!eventIdx_) storeRelaxed(ring_.usedFlags, kUsedNoNotify);
}

uint64_t RingDevice::drainKicks() {
  uint64_t count = 0;
  if (::read(kickFd_, &count, sizeof count) != static_cast<ssize_t>(sizeof count)) return 0;
  return count;
}

void RingDevice::forgeUsed(uint16_t slotOffset, uint32_t id, uint32_t len) {
  ring_.usedRing[static_cast<uint16_t>(usedIdx_ + slotOffset) & (ring_.size - 1)] = VringUsedElem{id, len};
}

void RingDevice::forgeUsedIndex(uint16_t value) { storeRelease(ring_.usedIdx, value); }

}  // namespace vu::test
