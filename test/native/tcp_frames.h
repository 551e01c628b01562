// TCP frames as a pod's kernel would make them, and a check of what comes out.
#pragma once

#include <cstdint>
#include <vector>

#include "checksum.h"
#include "vnet_hdr.h"

namespace vu::test {

struct TcpSpec {
  bool ipv6 = false;
  uint32_t vlanTags = 0;
  uint32_t payload = 1000;
  uint32_t seq = 1000;
  uint16_t ipId = 7;
  uint8_t flags = 0x10;  // ACK
  uint16_t gsoSize = 0;
  uint16_t sourcePort = 40000;
  uint8_t optionBytes = 12;
  // Complete the checksum instead of leaving it to NEEDS_CSUM.
  bool checksummed = false;
};

inline void put16(std::vector<uint8_t>& out, uint32_t value) {
  out.push_back(static_cast<uint8_t>(value >> 8));
  out.push_back(static_cast<uint8_t>(value));
}
inline void put32(std::vector<uint8_t>& out, uint32_t value) {
  put16(out, value >> 16);
  put16(out, value & 0xffff);
}

inline uint8_t payloadByte(uint32_t sequence) { return static_cast<uint8_t>(sequence * 31 + (sequence >> 8)); }

// With a 12-byte vnet header in front.
inline std::vector<uint8_t> tcpFrame(const TcpSpec& spec) {
  std::vector<uint8_t> out(12);
  for (int i = 0; i < 12; ++i) out.push_back(static_cast<uint8_t>(2 + i));
  for (uint32_t i = 0; i < spec.vlanTags; ++i) {
    put16(out, 0x8100);
    put16(out, 100 + i);
  }
  put16(out, spec.ipv6 ? 0x86dd : 0x0800);
  const size_t l3 = out.size();
  const uint32_t tcpBytes = 20U + spec.optionBytes + spec.payload;
  if (spec.ipv6) {
    put32(out, 0x60000000);
    put16(out, tcpBytes);
    out.push_back(6);
    out.push_back(64);
    for (int i = 0; i < 32; ++i) out.push_back(static_cast<uint8_t>(0x20 + i));
  } else {
    put16(out, 0x4500);
    put16(out, 20 + tcpBytes);
    put16(out, spec.ipId);
    put16(out, 0x4000);
    out.push_back(64);
    out.push_back(6);
    put16(out, 0);
    for (const int byte : {10, 0, 0, 1, 10, 0, 0, 2}) out.push_back(static_cast<uint8_t>(byte));
    const auto sum = static_cast<uint16_t>(~checksumFold(checksumAdd(0, out.data() + l3, 20)));
    std::memcpy(out.data() + l3 + 10, &sum, 2);
  }
  const size_t l4 = out.size();
  put16(out, spec.sourcePort);
  put16(out, 5201);
  put32(out, spec.seq);
  put32(out, 77);
  out.push_back(static_cast<uint8_t>((20U + spec.optionBytes) / 4 << 4));
  out.push_back(spec.flags);
  put16(out, 500);
  put32(out, 0);
  for (uint8_t i = 0; i < spec.optionBytes; ++i) out.push_back(1);
  for (uint32_t i = 0; i < spec.payload; ++i) out.push_back(payloadByte(spec.seq + i));
  const uint16_t pseudo = checksumFold(pseudoHeaderSum(out.data() + l3 + (spec.ipv6 ? 8 : 12), spec.ipv6, 6, tcpBytes));
  std::memcpy(out.data() + l4 + 16, &pseudo, 2);
  VnetHdr header;
  if (spec.checksummed) {
    completeChecksum(out.data() + 12, out.size() - 12, static_cast<uint16_t>(l4 - 12), 16);
  } else {
    header.flags = kHdrNeedsCsum;
    header.csumStart = static_cast<uint16_t>(l4 - 12);
    header.csumOffset = 16;
  }
  if (spec.gsoSize != 0) {
    header.gsoType = spec.ipv6 ? kGsoTcp6 : kGsoTcp4;
    header.gsoSize = spec.gsoSize;
    header.hdrLen = static_cast<uint16_t>(l4 - 12 + 20U + spec.optionBytes);
  }
  header.write(out.data(), 12);
  return out;
}

// What a strict receiver sees in an Ethernet frame (no vnet header).
struct TcpSeen {
  bool lawful = false;
  uint32_t seq = 0;
  uint16_t ipId = 0;
  uint8_t flags = 0;
  std::vector<uint8_t> payload;
};

// `partial`: the checksum is the pseudo-header's only.
inline TcpSeen parseTcp(const std::vector<uint8_t>& frame, bool partial = false) {
  TcpSeen seen;
  const auto be = [&](size_t at) { return static_cast<uint32_t>(frame[at] << 8 | frame[at + 1]); };
  size_t l3 = 14;
  while (be(l3 - 2) == 0x8100) l3 += 4;
  const bool ipv6 = be(l3 - 2) == 0x86dd;
  const size_t l4 = l3 + (ipv6 ? 40 : 20);
  const uint32_t l4Bytes = ipv6 ? be(l3 + 4) : be(l3 + 2) - 20;
  if (l4 + l4Bytes != frame.size()) return seen;
  if (!ipv6 && checksumFold(checksumAdd(0, frame.data() + l3, 20)) != 0xffff) return seen;
  const uint64_t pseudo = pseudoHeaderSum(frame.data() + l3 + (ipv6 ? 8 : 12), ipv6, 6, l4Bytes);
  if (partial) {
    uint16_t field = 0;
    std::memcpy(&field, frame.data() + l4 + 16, 2);
    if (field != checksumFold(pseudo)) return seen;
  } else if (checksumFold(checksumAdd(pseudo, frame.data() + l4, l4Bytes)) != 0xffff) {
    return seen;
  }
  seen.seq = be(l4 + 4) << 16 | be(l4 + 6);
  seen.ipId = ipv6 ? uint16_t{0} : static_cast<uint16_t>(be(l3 + 4));
  seen.flags = frame[l4 + 13];
  const size_t data = l4 + (frame[l4 + 12] >> 4) * 4U;
  seen.payload.assign(frame.begin() + static_cast<long>(data), frame.end());
  seen.lawful = true;
  return seen;
}

}  // namespace vu::test
