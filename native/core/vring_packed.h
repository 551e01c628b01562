// Packed virtqueue as it lies in shared memory: virtio 1.2 section 2.8, placement as DPDK's vring_init_packed().
#pragma once

#include "vring.h"

namespace vu {

struct PackedDesc {
  uint64_t addr;
  uint32_t len;
  uint16_t id;
  uint16_t flags;
};
static_assert(sizeof(PackedDesc) == 16);

inline void storePlain(PackedDesc* desc, const PackedDesc& value) noexcept {
  storePlain(&desc->addr, value.addr);
  storePlain(&desc->len, value.len);
  storePlain(&desc->id, value.id);
  storePlain(&desc->flags, value.flags);
}

// Event suppression: of the driver (what calls it wants) and of the device (what kicks it wants).
struct PackedEvent {
  // Descriptor slot, bit 15: wrap counter.
  uint16_t offWrap;
  uint16_t flags;
};
static_assert(sizeof(PackedEvent) == 4);

inline constexpr uint16_t kPackedAvail = 1 << 7;
inline constexpr uint16_t kPackedUsed = 1 << 15;

inline constexpr uint16_t kEventEnable = 0;
inline constexpr uint16_t kEventDisable = 1;
// At the descriptor named by offWrap; only with EVENT_IDX.
inline constexpr uint16_t kEventDesc = 2;

inline constexpr uint16_t kWrapBit = 1 << 15;

// A slot of the ring and the wrap counter with which it is passed. The encoding is that of SET_VRING_BASE's halves.
struct PackedCursor {
  uint16_t slot = 0;
  bool wrap = true;

  static constexpr PackedCursor of(uint16_t encoded) noexcept {
    return {static_cast<uint16_t>(encoded & ~kWrapBit), (encoded & kWrapBit) != 0};
  }
  constexpr uint16_t encoded() const noexcept { return static_cast<uint16_t>(slot | (wrap ? kWrapBit : 0)); }
  // `slots` is at most `size`.
  constexpr void advance(uint32_t slots, uint32_t size) noexcept {
    const uint32_t at = slot + slots;
    if (at >= size) wrap = !wrap;
    slot = static_cast<uint16_t>(at >= size ? at - size : at);
  }
  // Flags of a descriptor made available, and of one used, on this lap.
  constexpr uint16_t availFlags() const noexcept { return wrap ? kPackedAvail : kPackedUsed; }
  constexpr uint16_t usedFlags() const noexcept { return wrap ? kPackedAvail | kPackedUsed : 0; }
};

// A ring nobody has used: slot 0, wrap counter 1.
inline constexpr uint16_t kPackedStart = kWrapBit;

constexpr bool isUsed(uint16_t flags, bool wrap) noexcept {
  return ((flags & kPackedAvail) != 0) == wrap && ((flags & kPackedUsed) != 0) == wrap;
}

// `avail` is the driver's event structure, `used` the device's: the places that SET_VRING_ADDR has for them.
constexpr VringLayout packedLayoutAt(uint64_t base, uint32_t size) noexcept {
  VringLayout layout;
  layout.desc = base;
  layout.avail = base + sizeof(PackedDesc) * size;
  layout.used = alignUp(layout.avail + sizeof(PackedEvent), kPageBytes);
  layout.end = alignUp(layout.used + sizeof(PackedEvent), kPageBytes);
  return layout;
}

// Pointers into one ring.
struct PackedRing {
  uint32_t size = 0;
  PackedDesc* desc = nullptr;
  PackedEvent* driver = nullptr;
  PackedEvent* device = nullptr;

  static PackedRing over(uint8_t* memory, const VringLayout& layout, uint32_t size) noexcept {
    return {size, reinterpret_cast<PackedDesc*>(memory + layout.desc),
            reinterpret_cast<PackedEvent*>(memory + layout.avail),
            reinterpret_cast<PackedEvent*>(memory + layout.used)};
  }
};

// needEvent() for a ring of slots: has the driver, whose next slot is `now` after `added` slots, passed the event?
constexpr bool needPackedEvent(uint16_t offWrap, const PackedCursor& now, uint32_t added, uint32_t size) noexcept {
  const PackedCursor event = PackedCursor::of(offWrap);
  const uint32_t lap = event.wrap == now.wrap ? 0 : size;
  return needEvent(static_cast<uint16_t>(event.slot - lap), now.slot, static_cast<uint16_t>(now.slot - added));
}

}  // namespace vu
