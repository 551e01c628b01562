// Software receive coalescing: consecutive TCP segments of one flow become one frame with a segmentation header, which
// the TAP takes as if the backend had GUEST_TSO. Pure; payload is never copied.
#pragma once

#include <sys/uio.h>

#include <array>
#include <cstdint>

#include "vnet_hdr.h"

namespace vu {

// A segment that may be merged, taken apart. Its headers are copied: the frame lies in memory that the backend can
// change.
struct TcpSegment {
  // Ethernet with two VLAN tags, IPv6 without extension headers, TCP with all options: 122 bytes.
  static constexpr uint32_t kHeaderRoom = 128;
  std::array<uint8_t, kHeaderRoom> headers{};
  uint16_t headerBytes = 0;
  uint16_t l3 = 0;
  uint16_t l4 = 0;
  bool ipv6 = false;
  bool push = false;
  uint16_t ipId = 0;
  uint32_t seq = 0;
  uint32_t payloadBytes = 0;
};

// `frame`: Ethernet frame in one piece. true: plain data (ACK, perhaps PSH) of one unfragmented packet without padding,
// whose checksum is right or vouched for by the header.
bool parseSegment(const VnetHdr& header, const uint8_t* frame, uint32_t bytes, TcpSegment& segment) noexcept;

class Coalescer {
 public:
  static constexpr uint32_t kMaxSegments = 64;
  // Below 64 KiB with every header.
  static constexpr uint32_t kMaxPayload = 65000;

  uint32_t segments() const noexcept { return segments_; }
  bool empty() const noexcept { return segments_ == 0; }
  // Nothing more may follow: a short segment or PSH was last, or it is full.
  bool closed() const noexcept { return closed_; }

  // Starts a run. Only when empty.
  void begin(const TcpSegment& segment, uint8_t* frame) noexcept;
  // false: not the next segment of this run; nothing changed.
  bool append(const TcpSegment& segment, uint8_t* frame) noexcept;
  // The headers of the merged frame, then the payload slices. parts[0] is in this object. Valid until clear().
  // For a run of at least two.
  const iovec* finish(uint32_t vnetBytes, uint32_t& count) noexcept;
  void clear() noexcept {
    segments_ = 0;
    closed_ = false;
  }

 private:
  bool follows(const TcpSegment& segment) const noexcept;
  void add(const TcpSegment& segment, uint8_t* frame) noexcept;

  TcpSegment first_;
  uint32_t segments_ = 0;
  bool closed_ = false;
  bool push_ = false;
  uint32_t payloadBytes_ = 0;
  std::array<uint8_t, sizeof(VnetHdr) + TcpSegment::kHeaderRoom> merged_{};
  std::array<iovec, kMaxSegments + 1> parts_{};
};

}  // namespace vu
