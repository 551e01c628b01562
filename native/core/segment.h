// Software TCP segmentation: what a backend with HOST_TSO would do. Pure; payload is never copied.
#pragma once

#include <array>
#include <cstdint>

#include "vnet_hdr.h"

namespace vu {

// Room for a segment's vnet header, Ethernet (two VLAN tags), IP and TCP headers.
inline constexpr uint32_t kSegmentHeaderRoom = 256;

// Each frame that is cut costs descriptors: one with a tiny gso_size may not cost tens of thousands. What Linux needs
// at most: 64 KiB by TCP_MIN_GSO_SIZE (include/net/tcp.h), 8.
inline constexpr uint32_t kMaxSegmentsOfFrame = 8192;

// Why a frame cannot be segmented. A pod can craft any of them with AF_PACKET and PACKET_VNET_HDR.
enum class SegmentRefusal : uint8_t {
  kNone,
  kType,        // not TCP over IPv4 or IPv6 (UFO, UDP_L4, tunnels, none)
  kSize,        // gso_size 0, or segments beyond the length field of IP
  kChecksum,    // NEEDS_CSUM missing, or not the field of TCP
  kShort,       // headers end behind the frame
  kNetwork,     // EtherType, IP version, header length or protocol contradict the header in front
  kFragment,    // of a larger datagram: has no TCP header of its own to repeat
  kExtensions,  // IPv6 extension headers that do not lead to TCP at csum_start
  kTransport,   // TCP data offset below 20 bytes
  kHeaders,     // more headers than a segment has room for
  kNoPayload,
  kSegments,  // more than kMaxSegmentsOfFrame
};

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
  // Sum of the TCP pseudo-header without the length.
  uint64_t pseudoSum = 0;
  // Why there is no plan.
  SegmentRefusal refusal = SegmentRefusal::kNone;
};

struct SegmentPart {
  // Bytes of `slab` written: vnet header and headers.
  uint32_t slabBytes = 0;
  // The slice of the frame's payload, from the start of the Ethernet frame.
  uint32_t sliceOffset = 0;
  uint32_t sliceBytes = 0;
};

// `frame`: Ethernet frame in one piece, perhaps in memory that others write: what is judged is the copy in `plan`.
// false: not a TCP frame that its header describes correctly; plan.refusal says why.
bool planSegments(const uint8_t* frame, uint32_t bytes, const VnetHdr& header, SegmentPlan& plan) noexcept;

// Writes vnet header (`vnetBytes`: 10 or 12) and headers of segment `index` to `slab` (kSegmentHeaderRoom bytes).
// With `checksum` the TCP checksum is computed over the slice of `frame`, else left to the backend (NEEDS_CSUM).
SegmentPart writeSegment(const SegmentPlan& plan, uint32_t index, const uint8_t* frame, uint32_t vnetBytes,
                         bool checksum, uint8_t* slab) noexcept;

}  // namespace vu
