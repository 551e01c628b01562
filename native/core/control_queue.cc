#include "control_queue.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace vu {
namespace {

// Written before the device answers: a device that answers nothing has refused.
constexpr uint8_t kNoAnswer = 0xff;

// Rings of a backend are page aligned; this one may share its page with the queues' state. Every idle pod has one.
constexpr VringLayout compactLayout(bool packed) noexcept {
  VringLayout layout;
  layout.avail = sizeof(VringDesc) * kControlQueueSize;
  layout.used = alignUp(layout.avail + (packed ? sizeof(PackedEvent) : 4 + 2 * kControlQueueSize + 2), 64);
  layout.end =
      alignUp(layout.used + (packed ? sizeof(PackedEvent) : 6 + sizeof(VringUsedElem) * kControlQueueSize), 64);
  return layout;
}

}  // namespace

ControlLayout ControlLayout::at(uint64_t base, bool packed) noexcept {
  ControlLayout layout;
  layout.device = alignUp(base, 64);
  layout.driver = QueueStateLayout::at(layout.device + sizeof(ControlDeviceState), kControlQueueSize, 0);
  layout.region = alignUp(layout.driver.end, 64);
  layout.vring = compactLayout(packed);
  layout.slots = layout.region + layout.vring.end;
  layout.end = layout.slots + uint64_t{ControlQueue::kSlotBytes} * kControlQueueSize;
  return layout;
}

ControlQueue::ControlQueue(uint8_t* state, const ControlLayout& layout, bool packed, bool inOrder) noexcept
    : packed_(packed),
      region_(state + layout.region),
      slots_(state + layout.slots),
      device_(reinterpret_cast<ControlDeviceState*>(state + layout.device)) {
  addresses_.add(AddressRegion{kControlLabel, layout.end - layout.region, region_});
  const QueueStateView view = QueueStateView::over(state, layout.driver);
  const VirtqFeatures features{false, inOrder};
  if (packed) {
    packedRing_ = PackedRing::over(region_, layout.vring, kControlQueueSize);
    view.queue->availIdx = kPackedStart;
    view.queue->lastUsed = kPackedStart;
    *device_ = ControlDeviceState{kPackedStart, kPackedStart};
    driver_ = Virtq(PackedVirtq(packedRing_, view, features));
  } else {
    split_ = Vring::over(region_, layout.vring, kControlQueueSize);
    driver_ = Virtq(SplitVirtq(split_, view, features));
  }
  driver_.initFreeList();
  driver_.startWithoutCalls();
}

const char* ControlQueue::broken() const noexcept { return broken_ != nullptr ? broken_ : driver_.broken(); }

Result<uint16_t> ControlQueue::submit(const ControlCommand& command) noexcept {
  if (broken() != nullptr) return Fault{EPIPE, broken()};
  const size_t bytes = command.data.size();
  if (bytes > kControlDataBytes) return Fault{EMSGSIZE, "control command"};
  const auto chain = static_cast<uint16_t>(bytes == 0 ? 2 : 3);
  if (driver_.freeCount() < chain) return Fault{ENOSPC, "control queue"};
  const uint16_t head = driver_.allocate();
  const uint16_t data = bytes == 0 ? head : driver_.allocate();
  const uint16_t ack = driver_.allocate();
  uint8_t* const slot = slotOf(head);
  uint8_t* const header = slot + kAckBytes;
  slot[0] = kNoAnswer;
  header[0] = command.commandClass;
  header[1] = command.command;
  if (bytes != 0) std::memcpy(header + kHeaderBytes, command.data.data(), bytes);
  driver_.describe(head, labelOf(header), kHeaderBytes, kDescNext, bytes == 0 ? ack : data);
  if (bytes != 0) {
    driver_.describe(data, labelOf(header + kHeaderBytes), static_cast<uint32_t>(bytes), kDescNext, ack);
  }
  driver_.describe(ack, labelOf(slot), kAckBytes, kDescWrite, 0);
  driver_.submit(head, chain, 1, kNoTail);
  driver_.publish();
  return head;
}

std::optional<ControlAnswer> ControlQueue::takeAnswer() noexcept {
  UsedHead used{};
  if (broken() != nullptr || driver_.take(used) != Virtq::Take::kTaken) return std::nullopt;
  driver_.release(used.head, used.chain);
  return ControlAnswer{used.head, slotOf(used.head)[0]};
}

std::optional<ControlCommand> ControlQueue::next() noexcept {
  while (!serving_ && broken() == nullptr) {
    Chain chain;
    if (!read(chain)) return std::nullopt;
    if (chain.fault != nullptr) {
      if (chain.ack == nullptr) {
        breakQueue(chain.fault);
        return std::nullopt;
      }
      use(chain, kControlError);
      continue;
    }
    ControlCommand command{chain.readable[0], chain.readable[1], {}};
    command.data.assign(chain.readable.begin() + kHeaderBytes, chain.readable.end());
    serving_ = std::move(chain);
    return command;
  }
  return std::nullopt;
}

void ControlQueue::complete(uint8_t ack) noexcept {
  if (!serving_ || broken() != nullptr) return;
  use(*serving_, ack);
  serving_.reset();
}

bool ControlQueue::read(Chain& chain) noexcept {
  if (!(packed_ ? readPacked(chain) : readSplit(chain))) return false;
  if (chain.fault == nullptr && chain.ack == nullptr) chain.fault = "control chain without a place for its ack";
  if (chain.fault == nullptr && chain.readable.size() < kHeaderBytes) chain.fault = "control chain without a header";
  return true;
}

bool ControlQueue::add(Chain& chain, const Descriptor& descriptor) noexcept {
  if (++chain.descriptors > kControlQueueSize) return breakQueue("control chain that does not end");
  if ((descriptor.flags & kDescIndirect) != 0) return breakQueue("control chain with an indirect table");
  uint8_t* const host = addresses_.host(descriptor.label, descriptor.len);
  if (host == nullptr) return breakQueue("control buffer outside its memory");
  if ((descriptor.flags & kDescWrite) != 0) {
    if (chain.ack != nullptr) chain.fault = "control chain with two places for its ack";
    if (descriptor.len == 0) return breakQueue("control chain with an empty ack");
    if (chain.ack == nullptr) chain.ack = host;
    return true;
  }
  if (chain.ack != nullptr) {
    chain.fault = "control chain with data behind its ack";
    return true;
  }
  if (chain.readable.size() + descriptor.len > kHeaderBytes + kControlDataBytes) {
    chain.fault = "control command longer than any";
    return true;
  }
  chain.readable.insert(chain.readable.end(), host, host + descriptor.len);
  return true;
}

bool ControlQueue::readSplit(Chain& chain) noexcept {
  const uint16_t pending = static_cast<uint16_t>(loadAcquire(split_.availIdx) - device_->availNext);
  if (pending == 0) return false;
  if (pending > kControlQueueSize) return breakQueue("control avail index moved by more than the ring");
  constexpr uint16_t mask = kControlQueueSize - 1;
  chain.id = loadRelaxed(split_.availRing + (device_->availNext & mask));
  uint16_t at = chain.id;
  for (;;) {
    if (at >= kControlQueueSize) return breakQueue("control descriptor that is not of the ring");
    const VringDesc copy = loadPlain(&split_.desc[at]);
    if (!add(chain, Descriptor{copy.addr, copy.len, copy.flags, copy.next})) return false;
    if ((copy.flags & kDescNext) == 0) break;
    at = copy.next;
  }
  ++device_->availNext;
  return true;
}

bool ControlQueue::readPacked(Chain& chain) noexcept {
  PackedCursor at = PackedCursor::of(device_->availNext);
  const auto available = [&](uint16_t flags) noexcept {
    return ((flags & kPackedAvail) != 0) == at.wrap && ((flags & kPackedUsed) != 0) != at.wrap;
  };
  uint16_t flags = loadAcquire(&packedRing_.desc[at.slot].flags);
  if (!available(flags)) return false;
  for (;;) {
    const PackedDesc& slot = packedRing_.desc[at.slot];
    const Descriptor copy{loadPlain(&slot.addr), loadPlain(&slot.len), flags, loadPlain(&slot.id)};
    if (!add(chain, copy)) return false;
    chain.id = copy.link;
    at.advance(1, kControlQueueSize);
    if ((flags & kDescNext) == 0) break;
    flags = loadRelaxed(&packedRing_.desc[at.slot].flags);
    if (!available(flags)) return breakQueue("control chain that ends before its last descriptor");
  }
  device_->availNext = at.encoded();
  return true;
}

// The length of a used control element is 1, whatever the chain had (DPDK's seed wrote its number of descriptors).
void ControlQueue::use(const Chain& chain, uint8_t ack) noexcept {
  *chain.ack = ack;
  if (packed_) {
    PackedCursor at = PackedCursor::of(device_->usedNext);
    PackedDesc& slot = packedRing_.desc[at.slot];
    storePlain(&slot.id, chain.id);
    storePlain(&slot.len, 1);
    storeRelease(&slot.flags, static_cast<uint16_t>(kDescWrite | at.usedFlags()));
    at.advance(chain.descriptors, kControlQueueSize);
    device_->usedNext = at.encoded();
    return;
  }
  storePlain(&split_.usedRing[device_->usedNext & (kControlQueueSize - 1)], VringUsedElem{chain.id, 1});
  ++device_->usedNext;
  storeRelease(split_.usedIdx, device_->usedNext);
}

}  // namespace vu
