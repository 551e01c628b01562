#include "segment.h"

#include <algorithm>

#include "checksum.h"

namespace vu {
namespace {

constexpr uint16_t kEthernetBytes = 14;
constexpr uint8_t kTcp = 6;
constexpr uint8_t kTcpFin = 0x01;
constexpr uint8_t kTcpPsh = 0x08;
constexpr uint8_t kTcpCwr = 0x80;
constexpr uint16_t kTcpChecksum = 16;

uint16_t be16(const uint8_t* at) noexcept { return static_cast<uint16_t>(at[0] << 8 | at[1]); }
void putBe16(uint8_t* at, uint32_t value) noexcept {
  at[0] = static_cast<uint8_t>(value >> 8);
  at[1] = static_cast<uint8_t>(value);
}
uint32_t be32(const uint8_t* at) noexcept { return uint32_t{be16(at)} << 16 | be16(at + 2); }
void putBe32(uint8_t* at, uint32_t value) noexcept {
  putBe16(at, value >> 16);
  putBe16(at + 2, value);
}

// Offset of the network header behind at most two VLAN tags; 0 = no such type.
uint16_t networkOffset(const uint8_t* headers, uint32_t bytes, uint16_t& type) noexcept {
  uint16_t at = kEthernetBytes;
  type = be16(headers + 12);
  for (int tags = 0; tags < 2 && (type == 0x8100 || type == 0x88a8); ++tags) {
    if (at + 4U > bytes) return 0;
    type = be16(headers + at + 2);
    at = static_cast<uint16_t>(at + 4);
  }
  return at;
}

}  // namespace

bool planSegments(const uint8_t* frame, uint32_t bytes, const VnetHdr& header, SegmentPlan& plan) noexcept {
  const auto known = static_cast<uint32_t>(std::min<size_t>(bytes, plan.headers.size()));
  if (known < kEthernetBytes + 40U || header.gsoSize == 0 || (header.flags & kHdrNeedsCsum) == 0) return false;
  std::copy_n(frame, known, plan.headers.data());
  const uint8_t* const headers = plan.headers.data();
  uint16_t type = 0;
  plan.l3 = networkOffset(headers, known, type);
  plan.ipv6 = (header.gsoType & ~kGsoEcn) == kGsoTcp6;
  plan.l4 = header.csumStart;
  if (plan.l3 == 0 || header.csumOffset != kTcpChecksum || plan.l4 + 20U > known) return false;
  const uint8_t* const ip = headers + plan.l3;
  if (plan.ipv6) {
    if (type != 0x86dd || plan.l3 + 40U > plan.l4 || ip[0] >> 4 != 6) return false;
    // Extension headers are copied as they are; the last header must be TCP, so only the plain case is checked.
    if (plan.l4 == plan.l3 + 40U && ip[6] != kTcp) return false;
  } else {
    const uint32_t ihl = (ip[0] & 0x0fU) * 4;
    if (type != 0x0800 || ip[0] >> 4 != 4 || ihl < 20 || plan.l3 + ihl != plan.l4 || ip[9] != kTcp) return false;
  }
  const uint32_t tcpBytes = (headers[plan.l4 + 12] >> 4) * 4U;
  const uint32_t headerBytes = plan.l4 + tcpBytes;
  if (tcpBytes < 20 || headerBytes > known || headerBytes >= bytes) return false;
  plan.headerBytes = static_cast<uint16_t>(headerBytes);
  plan.mss = header.gsoSize;
  plan.payloadBytes = bytes - headerBytes;
  plan.count = (plan.payloadBytes + plan.mss - 1) / plan.mss;
  return true;
}

SegmentPart writeSegment(const SegmentPlan& plan, uint32_t index, const uint8_t* frame, uint32_t vnetBytes,
                         bool checksum, uint8_t* slab) noexcept {
  const uint32_t offset = index * plan.mss;
  const bool last = index + 1 == plan.count;
  SegmentPart part;
  part.slabBytes = vnetBytes + plan.headerBytes;
  part.sliceOffset = plan.headerBytes + offset;
  part.sliceBytes = last ? plan.payloadBytes - offset : plan.mss;

  VnetHdr header;
  if (!checksum) {
    header.flags = kHdrNeedsCsum;
    header.csumStart = plan.l4;
    header.csumOffset = kTcpChecksum;
  }
  header.write(slab, vnetBytes);

  uint8_t* const out = slab + vnetBytes;
  std::copy_n(plan.headers.data(), plan.headerBytes, out);
  uint8_t* const ip = out + plan.l3;
  uint8_t* const tcp = out + plan.l4;
  const uint32_t l4Bytes = plan.headerBytes - plan.l4 + part.sliceBytes;
  if (plan.ipv6) {
    putBe16(ip + 4, plan.l4 - plan.l3 - 40U + l4Bytes);
  } else {
    putBe16(ip + 2, plan.l4 - plan.l3 + l4Bytes);
    putBe16(ip + 4, be16(ip + 4) + index);
    ip[10] = ip[11] = 0;
    const auto sum = static_cast<uint16_t>(~checksumFold(checksumAdd(0, ip, size_t{plan.l4} - plan.l3)));
    std::memcpy(ip + 10, &sum, sizeof sum);
  }
  putBe32(tcp + 4, be32(tcp + 4) + offset);
  if (!last) tcp[13] = static_cast<uint8_t>(tcp[13] & ~(kTcpFin | kTcpPsh));
  if (index != 0) tcp[13] = static_cast<uint8_t>(tcp[13] & ~kTcpCwr);
  tcp[kTcpChecksum] = tcp[kTcpChecksum + 1] = 0;
  uint64_t sum = pseudoHeaderSum(ip + (plan.ipv6 ? 8 : 12), plan.ipv6, kTcp, l4Bytes);
  if (checksum) {
    sum = checksumAdd(sum, tcp, plan.headerBytes - plan.l4);
    sum = checksumAdd(sum, frame + part.sliceOffset, part.sliceBytes);
    sum = static_cast<uint16_t>(~checksumFold(sum));
  }
  const uint16_t folded = checksumFold(sum);
  std::memcpy(tcp + kTcpChecksum, &folded, sizeof folded);
  return part;
}

}  // namespace vu
