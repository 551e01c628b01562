// Fields of Ethernet, IP, TCP and UDP headers that software offloads read and rewrite, in network byte order.
#pragma once

#include <cstdint>

namespace vu {

inline constexpr uint16_t kEthernetBytes = 14;
inline constexpr uint8_t kTcp = 6;
inline constexpr uint8_t kUdp = 17;
inline constexpr uint8_t kTcpPsh = 0x08;
// Offset of the checksum in a TCP header.
inline constexpr uint16_t kTcpChecksum = 16;
inline constexpr uint16_t kUdpBytes = 8;
// Offsets in a UDP header.
inline constexpr uint16_t kUdpLength = 4;
inline constexpr uint16_t kUdpChecksum = 6;

constexpr uint16_t be16(const uint8_t* at) noexcept { return static_cast<uint16_t>(at[0] << 8 | at[1]); }
constexpr uint32_t be32(const uint8_t* at) noexcept { return uint32_t{be16(at)} << 16 | be16(at + 2); }
// The low 16 bits of `value`.
constexpr void putBe16(uint8_t* at, uint32_t value) noexcept {
  at[0] = static_cast<uint8_t>(value >> 8);
  at[1] = static_cast<uint8_t>(value);
}
constexpr void putBe32(uint8_t* at, uint32_t value) noexcept {
  putBe16(at, value >> 16);
  putBe16(at + 2, value);
}

// Offset of the network header behind at most two VLAN tags, and the EtherType that names it. `headers` holds 22 bytes.
constexpr uint16_t networkOffset(const uint8_t* headers, uint16_t& type) noexcept {
  uint16_t at = kEthernetBytes;
  type = be16(headers + 12);
  for (int tags = 0; tags < 2 && (type == 0x8100 || type == 0x88a8); ++tags) {
    type = be16(headers + at + 2);
    at = static_cast<uint16_t>(at + 4);
  }
  return at;
}

}  // namespace vu
