#include "coalesce.h"

#include <algorithm>

#include "checksum.h"

namespace vu {
namespace {

constexpr uint16_t kEthernetBytes = 14;
constexpr uint8_t kTcp = 6;
constexpr uint8_t kTcpPsh = 0x08;
constexpr uint8_t kTcpAck = 0x10;
constexpr uint16_t kTcpChecksum = 16;

uint16_t be16(const uint8_t* at) noexcept { return static_cast<uint16_t>(at[0] << 8 | at[1]); }
uint32_t be32(const uint8_t* at) noexcept { return uint32_t{be16(at)} << 16 | be16(at + 2); }
void putBe16(uint8_t* at, uint32_t value) noexcept {
  at[0] = static_cast<uint8_t>(value >> 8);
  at[1] = static_cast<uint8_t>(value);
}
bool same(const uint8_t* a, const uint8_t* b, size_t from, size_t to) noexcept {
  return std::memcmp(a + from, b + from, to - from) == 0;
}

}  // namespace

bool parseSegment(const VnetHdr& header, const uint8_t* frame, uint32_t bytes, TcpSegment& segment) noexcept {
  if (header.gsoType != kGsoNone || bytes < kEthernetBytes + 40U) return false;
  const uint32_t known = std::min(bytes, TcpSegment::kHeaderRoom);
  std::memcpy(segment.headers.data(), frame, known);
  const uint8_t* const headers = segment.headers.data();
  uint32_t l3 = kEthernetBytes;
  uint16_t type = be16(headers + 12);
  for (int tags = 0; tags < 2 && (type == 0x8100 || type == 0x88a8); ++tags) {
    type = be16(headers + l3 + 2);
    l3 += 4;
  }
  const uint8_t* const ip = headers + l3;
  segment.ipv6 = type == 0x86dd;
  const uint32_t l4 = l3 + (segment.ipv6 ? 40 : 20);
  if (l4 + 20 > known) return false;
  if (segment.ipv6) {
    if (ip[0] >> 4 != 6 || ip[6] != kTcp || l4 + be16(ip + 4) != bytes) return false;
  } else {
    // No options; DF set and no fragment, so the identification means nothing to a receiver.
    if (type != 0x0800 || ip[0] != 0x45 || ip[9] != kTcp || be16(ip + 6) != 0x4000 || l3 + be16(ip + 2) != bytes) {
      return false;
    }
    if (checksumFold(checksumAdd(0, ip, 20)) != 0xffff) return false;
  }
  const uint8_t* const tcp = headers + l4;
  const uint32_t headerBytes = l4 + (tcp[12] >> 4) * 4U;
  if (headerBytes < l4 + 20 || headerBytes > known || headerBytes >= bytes) return false;
  if ((tcp[13] & ~kTcpPsh) != kTcpAck || (tcp[12] & 0x0f) != 0) return false;
  if ((header.flags & (kHdrNeedsCsum | kHdrDataValid)) == 0) {
    uint64_t sum = pseudoHeaderSum(ip + (segment.ipv6 ? 8 : 12), segment.ipv6, kTcp, bytes - l4);
    sum = checksumAdd(sum, tcp, headerBytes - l4);
    sum = checksumAdd(sum, frame + headerBytes, bytes - headerBytes);
    if (checksumFold(sum) != 0xffff) return false;
  } else if ((header.flags & kHdrNeedsCsum) != 0 && (header.csumStart != l4 || header.csumOffset != kTcpChecksum)) {
    return false;
  }
  segment.headerBytes = static_cast<uint16_t>(headerBytes);
  segment.l3 = static_cast<uint16_t>(l3);
  segment.l4 = static_cast<uint16_t>(l4);
  segment.push = (tcp[13] & kTcpPsh) != 0;
  segment.ipId = segment.ipv6 ? uint16_t{0} : be16(ip + 4);
  segment.seq = be32(tcp + 4);
  segment.payloadBytes = bytes - headerBytes;
  return true;
}

void Coalescer::begin(const TcpSegment& segment, uint8_t* frame) noexcept {
  first_ = segment;
  segments_ = 0;
  payloadBytes_ = 0;
  push_ = false;
  closed_ = false;
  add(segment, frame);
}

bool Coalescer::append(const TcpSegment& segment, uint8_t* frame) noexcept {
  if (closed_ || !follows(segment)) return false;
  add(segment, frame);
  return true;
}

void Coalescer::add(const TcpSegment& segment, uint8_t* frame) noexcept {
  ++segments_;
  parts_[segments_] = iovec{frame + segment.headerBytes, segment.payloadBytes};
  payloadBytes_ += segment.payloadBytes;
  push_ = segment.push;
  closed_ = segment.push || segment.payloadBytes < first_.payloadBytes || segments_ == kMaxSegments;
}

// Everything but lengths, identification, sequence number, PSH and checksums must be the same.
bool Coalescer::follows(const TcpSegment& next) const noexcept {
  const uint8_t* const a = first_.headers.data();
  const uint8_t* const b = next.headers.data();
  const uint32_t l3 = first_.l3;
  const uint32_t l4 = first_.l4;
  if (next.ipv6 != first_.ipv6 || next.l3 != l3 || next.headerBytes != first_.headerBytes) return false;
  if (next.seq != first_.seq + payloadBytes_ || next.payloadBytes > first_.payloadBytes) return false;
  if (payloadBytes_ + next.payloadBytes > kMaxPayload) return false;
  if (!same(a, b, 0, l3)) return false;
  if (first_.ipv6) {
    if (!same(a, b, l3, l3 + 4) || !same(a, b, l3 + 6, l4)) return false;
  } else {
    if (!same(a, b, l3, l3 + 2) || !same(a, b, l3 + 6, l3 + 10) || !same(a, b, l3 + 12, l4)) return false;
  }
  return same(a, b, l4, l4 + 4) && same(a, b, l4 + 8, l4 + 13) && same(a, b, l4 + 14, l4 + 16) &&
         same(a, b, l4 + 18, first_.headerBytes);
}

const iovec* Coalescer::finish(uint32_t vnetBytes, uint32_t& count) noexcept {
  VnetHdr header;
  header.flags = kHdrNeedsCsum;
  header.gsoType = first_.ipv6 ? kGsoTcp6 : kGsoTcp4;
  header.hdrLen = first_.headerBytes;
  header.gsoSize = static_cast<uint16_t>(first_.payloadBytes);
  header.csumStart = first_.l4;
  header.csumOffset = kTcpChecksum;
  header.numBuffers = 1;
  header.write(merged_.data(), vnetBytes);
  uint8_t* const out = merged_.data() + vnetBytes;
  std::memcpy(out, first_.headers.data(), first_.headerBytes);
  uint8_t* const ip = out + first_.l3;
  uint8_t* const tcp = out + first_.l4;
  const uint32_t l4Bytes = first_.headerBytes - first_.l4 + payloadBytes_;
  if (first_.ipv6) {
    putBe16(ip + 4, l4Bytes);
  } else {
    putBe16(ip + 2, l4Bytes + 20);
    ip[10] = ip[11] = 0;
    const auto sum = static_cast<uint16_t>(~checksumFold(checksumAdd(0, ip, 20)));
    std::memcpy(ip + 10, &sum, sizeof sum);
  }
  if (push_) tcp[13] |= kTcpPsh;
  const uint16_t pseudo = checksumFold(pseudoHeaderSum(ip + (first_.ipv6 ? 8 : 12), first_.ipv6, kTcp, l4Bytes));
  std::memcpy(tcp + kTcpChecksum, &pseudo, sizeof pseudo);
  parts_[0] = iovec{merged_.data(), size_t{vnetBytes} + first_.headerBytes};
  count = segments_ + 1;
  return parts_.data();
}

}  // namespace vu
