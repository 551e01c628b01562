// Software TCP segmentation: what a backend with HOST_TSO would do. Pure; payload is never copied.
#pragma once

#include <array>
#include <cstdint>

#include "vnet_hdr.h"

namespace vu {

// Room for a segment's vnet header, Ethernet (two VLAN tags), IP and TCP headers.
inline constexpr uint32_t kSegmentHeaderRoom = 256;

// One TSO frame taken apart. Its headers are copied out: the frame may lie in shared memory.
struct SegmentPlan {
  std::array<uint8_t, kSegmentHeaderRoom - sizeof(VnetHdr)> headers{};
  // Ethernet to the end of TCP.
  uint16_t headerBytes = 0;
  uint16_t l3 = 0;
  uint16_t l4 = 0;
  bool ipv6 = false;
  uint16_t mss = 0;
  uint32_t payloadBytes = 0;
  uint32_t count = 0;
};

struct SegmentPart {
  // Bytes of `slab` written: vnet header and headers.
  uint32_t slabBytes = 0;
  // The slice of the frame's payload, from the start of the Ethernet frame.
  uint32_t sliceOffset = 0;
  uint32_t sliceBytes = 0;
};

// `frame`: Ethernet frame in one piece. false: not a TCP frame that its header describes correctly.
bool planSegments(const uint8_t* frame, uint32_t bytes, const VnetHdr& header, SegmentPlan& plan) noexcept;

// Writes vnet header (`vnetBytes`: 10 or 12) and headers of segment `index` to `slab` (kSegmentHeaderRoom bytes).
// With `checksum` the TCP checksum is computed over the slice of `frame`, else left to the backend (NEEDS_CSUM).
SegmentPart writeSegment(const SegmentPlan& plan, uint32_t index, const uint8_t* frame, uint32_t vnetBytes,
                         bool checksum, uint8_t* slab) noexcept;

}  // namespace vu
