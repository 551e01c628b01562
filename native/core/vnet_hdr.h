// virtio_net_hdr as it precedes every frame (virtio 1.2, 5.1.6); byte-identical to what a TAP with IFF_VNET_HDR uses.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace vu {

struct VnetHdr {
  uint8_t flags = 0;
  uint8_t gsoType = 0;
  uint16_t hdrLen = 0;
  uint16_t gsoSize = 0;
  uint16_t csumStart = 0;
  uint16_t csumOffset = 0;
  // Only in the 12-byte form.
  uint16_t numBuffers = 0;

  // `bytes`: 10 or 12. One copy: the source may be shared memory.
  static VnetHdr read(const uint8_t* from, uint32_t bytes) noexcept {
    VnetHdr header;
    std::memcpy(&header, from, bytes);
    return header;
  }
  void write(uint8_t* to, uint32_t bytes) const noexcept { std::memcpy(to, this, bytes); }
};
static_assert(sizeof(VnetHdr) == 12);
inline constexpr uint32_t kNumBuffersOffset = offsetof(VnetHdr, numBuffers);

inline constexpr uint8_t kHdrNeedsCsum = 1;
inline constexpr uint8_t kHdrDataValid = 2;
inline constexpr uint8_t kGsoNone = 0;
inline constexpr uint8_t kGsoTcp4 = 1;
inline constexpr uint8_t kGsoUdp = 3;
inline constexpr uint8_t kGsoTcp6 = 4;
inline constexpr uint8_t kGsoUdpL4 = 5;
inline constexpr uint8_t kGsoEcn = 0x80;

}  // namespace vu
