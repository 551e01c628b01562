// Split virtqueue as it lies in shared memory: virtio 1.2 section 2.7, placement as DPDK's vring_init().
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include "shared_access.h"

namespace vu {

static_assert(std::endian::native == std::endian::little, "virtio 1.x rings are little-endian");

struct VringDesc {
  uint64_t addr;
  uint32_t len;
  uint16_t flags;
  uint16_t next;
};
static_assert(sizeof(VringDesc) == 16);

struct VringUsedElem {
  uint32_t id;
  uint32_t len;
};
static_assert(sizeof(VringUsedElem) == 8);

inline constexpr uint16_t kDescNext = 1;
inline constexpr uint16_t kDescWrite = 2;
inline constexpr uint16_t kDescIndirect = 4;
inline constexpr uint16_t kAvailNoInterrupt = 1;
inline constexpr uint16_t kUsedNoNotify = 1;

inline constexpr size_t kPageBytes = 4096;

constexpr uint64_t alignUp(uint64_t value, uint64_t alignment) noexcept {
  return (value + alignment - 1) / alignment * alignment;
}

// Offsets of the three parts. `used` is page aligned behind the avail ring; used_event lies in the gap before it.
struct VringLayout {
  uint64_t desc = 0;
  uint64_t avail = 0;
  uint64_t used = 0;
  uint64_t end = 0;

  // `base` must be page aligned; `end` is page aligned.
  static constexpr VringLayout at(uint64_t base, uint32_t size) noexcept {
    VringLayout layout;
    layout.desc = base;
    layout.avail = base + sizeof(VringDesc) * size;
    layout.used = alignUp(layout.avail + 4 + 2 * uint64_t{size}, kPageBytes);
    layout.end = alignUp(layout.used + 6 + sizeof(VringUsedElem) * size, kPageBytes);
    return layout;
  }
};

inline VringDesc loadPlain(const VringDesc* desc) noexcept {
  return {loadPlain(&desc->addr), loadPlain(&desc->len), loadPlain(&desc->flags), loadPlain(&desc->next)};
}
inline void storePlain(VringDesc* desc, const VringDesc& value) noexcept {
  storePlain(&desc->addr, value.addr);
  storePlain(&desc->len, value.len);
  storePlain(&desc->flags, value.flags);
  storePlain(&desc->next, value.next);
}
inline void storePlain(VringUsedElem* element, const VringUsedElem& value) noexcept {
  storePlain(&element->id, value.id);
  storePlain(&element->len, value.len);
}

// Pointers into one ring.
struct Vring {
  uint32_t size = 0;
  VringDesc* desc = nullptr;
  uint16_t* availFlags = nullptr;
  uint16_t* availIdx = nullptr;
  uint16_t* availRing = nullptr;
  uint16_t* usedEvent = nullptr;
  uint16_t* usedFlags = nullptr;
  uint16_t* usedIdx = nullptr;
  VringUsedElem* usedRing = nullptr;
  uint16_t* availEvent = nullptr;

  static Vring over(uint8_t* memory, const VringLayout& layout, uint32_t size) noexcept {
    Vring ring;
    ring.size = size;
    ring.desc = reinterpret_cast<VringDesc*>(memory + layout.desc);
    auto* avail = reinterpret_cast<uint16_t*>(memory + layout.avail);
    ring.availFlags = avail;
    ring.availIdx = avail + 1;
    ring.availRing = avail + 2;
    ring.usedEvent = avail + 2 + size;
    auto* used = reinterpret_cast<uint16_t*>(memory + layout.used);
    ring.usedFlags = used;
    ring.usedIdx = used + 1;
    ring.usedRing = reinterpret_cast<VringUsedElem*>(memory + layout.used + 4);
    ring.availEvent = reinterpret_cast<uint16_t*>(memory + layout.used + 4 + sizeof(VringUsedElem) * size);
    return ring;
  }
};

// The virtio specification's vring_need_event(): has [old, now) passed `event`?
constexpr bool needEvent(uint16_t event, uint16_t now, uint16_t old) noexcept {
  return static_cast<uint16_t>(now - event - 1) < static_cast<uint16_t>(now - old);
}

}  // namespace vu
