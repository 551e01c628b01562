// Labels (guest-physical = userspace address, as the backend sees them) of the shared regions, at most 8 of them.
//
// Eight is VHOST_MEMORY_MAX_NREGIONS. A session has one region today; memory may grow.
#pragma once

#include <array>
#include <cstdint>

namespace vu {

struct AddressRegion {
  uint64_t label = 0;
  uint64_t bytes = 0;
  uint8_t* host = nullptr;
};

class AddressMap {
 public:
  static constexpr uint32_t kMaxRegions = 8;

  // false: full, empty or wrapping around.
  bool add(const AddressRegion& region) noexcept {
    if (count_ == kMaxRegions || region.bytes == 0 || region.label + region.bytes < region.label) return false;
    regions_[count_++] = region;
    return true;
  }

  // Of a map that is not empty.
  void removeLast() noexcept { --count_; }

  // Host pointer of [label, label + bytes), or nullptr when it does not lie inside one region.
  uint8_t* host(uint64_t label, uint64_t bytes) const noexcept {
    for (uint32_t i = 0; i < count_; ++i) {
      const AddressRegion& region = regions_[i];
      if (label < region.label) continue;
      const uint64_t offset = label - region.label;
      if (offset <= region.bytes && bytes <= region.bytes - offset) return region.host + offset;
    }
    return nullptr;
  }

  uint32_t count() const noexcept { return count_; }

 private:
  std::array<AddressRegion, kMaxRegions> regions_{};
  uint32_t count_ = 0;
};

}  // namespace vu
