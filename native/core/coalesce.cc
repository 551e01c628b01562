#include "coalesce.h"

#include <algorithm>

#include "checksum.h"

namespace vu {
namespace {

constexpr uint8_t kTcpAck = 0x10;
constexpr uint16_t kDontFragment = 0x4000;
// IP: its length is a 16-bit field. What is longer is padding at best.
constexpr size_t kMaxFrameBytes = 0xffff + 22 + 40;

bool same(const uint8_t* a, const uint8_t* b, size_t from, size_t to) noexcept {
  return std::memcmp(a + from, b + from, to - from) == 0;
}
size_t total(const iovec* spans, uint32_t count) noexcept {
  size_t bytes = 0;
  for (uint32_t i = 0; i < count && bytes <= kMaxFrameBytes; ++i) bytes += spans[i].iov_len;
  return bytes;
}
// The first `bytes` bytes of a frame that has so many.
void gather(const iovec* spans, size_t bytes, uint8_t* to) noexcept {
  for (; bytes > 0; ++spans) {
    const size_t part = std::min(bytes, spans->iov_len);
    if (part == 0) continue;
    std::memcpy(to, spans->iov_base, part);
    to += part;
    bytes -= part;
  }
}

// By what a receiver tells connections apart. Addresses and ports of IPv6 lie in one piece, as those of IPv4 without
// options do.
bool sameFlow(const Segment& a, const Segment& b) noexcept {
  if (a.ipv6 != b.ipv6 || a.protocol != b.protocol) return false;
  const size_t bytes = (a.ipv6 ? 32U : 8U) + 4;
  return std::memcmp(a.headers.data() + a.l4 + 4 - bytes, b.headers.data() + b.l4 + 4 - bytes, bytes) == 0;
}

// What a flow's data looks like: the bytes of headers up to its payload, or 0.
uint32_t tcpDataOffset(const uint8_t* tcp, uint32_t l4) noexcept {
  const uint32_t bytes = (tcp[12] >> 4) * 4U;
  const bool plain = (tcp[13] & ~kTcpPsh) == kTcpAck && (tcp[12] & 0x0f) == 0;
  return plain && bytes >= 20 ? l4 + bytes : 0;
}
// A datagram without a checksum would get one. What is for a group is read by packet sockets (a DHCP client's), which
// get frames as they are.
uint32_t udpDataOffset(const uint8_t* frame, uint32_t l4, size_t frameBytes) noexcept {
  const uint8_t* const udp = frame + l4;
  const bool group = (frame[0] & 1) != 0;
  const bool plain = !group && be16(udp + kUdpLength) == frameBytes - l4 && be16(udp + kUdpChecksum) != 0;
  return plain ? l4 + kUdpBytes : 0;
}
constexpr uint16_t checksumOffset(uint8_t protocol) noexcept { return protocol == kUdp ? kUdpChecksum : kTcpChecksum; }

}  // namespace

SegmentKind classifySegment(const VnetHdr& header, const iovec* spans, uint32_t count, Segment& segment) noexcept {
  const size_t bytes = total(spans, count);
  if (bytes < kEthernetBytes + 20U + kUdpBytes || bytes > kMaxFrameBytes) return SegmentKind::kOther;
  const size_t known = std::min<size_t>(bytes, Segment::kHeaderRoom);
  gather(spans, known, segment.headers.data());
  const uint8_t* const headers = segment.headers.data();
  uint16_t type = 0;
  const uint32_t l3 = networkOffset(headers, type);
  const uint8_t* const ip = headers + l3;
  segment.ipv6 = type == 0x86dd;
  const uint32_t l4 = l3 + (segment.ipv6 ? 40 : 20);
  if (l4 + kUdpBytes > known) return SegmentKind::kOther;
  // Whether it is TCP or UDP at all, with its ports where we look for them.
  if (segment.ipv6) {
    if (ip[0] >> 4 != 6) return SegmentKind::kOther;
  } else if (type != 0x0800 || ip[0] != 0x45 || (be16(ip + 6) & 0x3fff) != 0) {
    return SegmentKind::kOther;
  }
  segment.protocol = ip[segment.ipv6 ? 6 : 9];
  if (segment.protocol != kTcp && segment.protocol != kUdp) return SegmentKind::kOther;
  if (segment.protocol == kTcp && l4 + 20 > known) return SegmentKind::kOther;
  segment.l3 = static_cast<uint16_t>(l3);
  segment.l4 = static_cast<uint16_t>(l4);

  if (header.gsoType != kGsoNone || (header.flags & ~(kHdrNeedsCsum | kHdrDataValid)) != 0) return SegmentKind::kFlow;
  if (segment.ipv6) {
    if (l4 + be16(ip + 4) != bytes) return SegmentKind::kFlow;
  } else {
    if ((be16(ip + 6) | kDontFragment) != kDontFragment || l3 + be16(ip + 2) != bytes) return SegmentKind::kFlow;
    if (checksumFold(checksumAdd(0, ip, 20)) != 0xffff) return SegmentKind::kFlow;
  }
  const uint8_t* const transport = headers + l4;
  const bool tcp = segment.protocol == kTcp;
  const uint32_t headerBytes = tcp ? tcpDataOffset(transport, l4) : udpDataOffset(headers, l4, bytes);
  if (headerBytes == 0 || headerBytes > known || headerBytes >= bytes) return SegmentKind::kFlow;
  if ((header.flags & (kHdrNeedsCsum | kHdrDataValid)) == 0) {
    const auto l4Bytes = static_cast<uint32_t>(bytes - l4);
    uint64_t sum = pseudoHeaderSum(ip + (segment.ipv6 ? 8 : 12), segment.ipv6, segment.protocol, l4Bytes);
    sum = checksumAdd(sum, transport, headerBytes - l4);
    sum = checksumAddSpans(sum, spans, count, headerBytes);
    if (checksumFold(sum) != 0xffff) return SegmentKind::kFlow;
  } else if ((header.flags & kHdrNeedsCsum) != 0 &&
             (header.csumStart != l4 || header.csumOffset != checksumOffset(segment.protocol))) {
    return SegmentKind::kFlow;
  }
  segment.headerBytes = static_cast<uint16_t>(headerBytes);
  segment.push = tcp && (transport[13] & kTcpPsh) != 0;
  segment.mayFragment = !segment.ipv6 && be16(ip + 6) == 0;
  segment.ipId = segment.ipv6 ? uint16_t{0} : be16(ip + 4);
  segment.seq = tcp ? be32(transport + 4) : 0;
  segment.payloadBytes = static_cast<uint32_t>(bytes - headerBytes);
  return SegmentKind::kData;
}

void Coalescer::begin(const Segment& segment, const iovec* spans, uint32_t count) noexcept {
  first_ = segment;
  segments_ = 0;
  partCount_ = 1;
  payloadBytes_ = 0;
  push_ = false;
  closed_ = false;
  add(segment, spans, count);
}

bool Coalescer::append(const Segment& segment, const iovec* spans, uint32_t count) noexcept {
  if (closed_ || partCount_ + count > kMaxParts || !follows(segment)) return false;
  add(segment, spans, count);
  return true;
}

void Coalescer::add(const Segment& segment, const iovec* spans, uint32_t count) noexcept {
  ++segments_;
  size_t skip = segment.headerBytes;
  for (uint32_t i = 0; i < count; ++i) {
    if (skip >= spans[i].iov_len) {
      skip -= spans[i].iov_len;
      continue;
    }
    parts_[partCount_++] = iovec{static_cast<uint8_t*>(spans[i].iov_base) + skip, spans[i].iov_len - skip};
    skip = 0;
  }
  payloadBytes_ += segment.payloadBytes;
  push_ = segment.push;
  closed_ = segment.push || segment.payloadBytes < first_.payloadBytes || segments_ == kMaxSegments;
}

// Everything but lengths, identification, sequence number, PSH and checksums must be the same. Of one flow: its
// protocol is the same.
bool Coalescer::follows(const Segment& next) const noexcept {
  const uint8_t* const a = first_.headers.data();
  const uint8_t* const b = next.headers.data();
  const uint32_t l3 = first_.l3;
  const uint32_t l4 = first_.l4;
  const bool tcp = first_.protocol == kTcp;
  if (next.ipv6 != first_.ipv6 || next.protocol != first_.protocol) return false;
  if (next.l3 != l3 || next.headerBytes != first_.headerBytes || next.payloadBytes > first_.payloadBytes) return false;
  if (tcp && next.seq != first_.seq + payloadBytes_) return false;
  if (first_.headerBytes + payloadBytes_ + next.payloadBytes > kMaxFrame) return false;
  if (!same(a, b, 0, l3)) return false;
  if (first_.ipv6) {
    if (!same(a, b, l3, l3 + 4) || !same(a, b, l3 + 6, l4)) return false;
  } else {
    if (!same(a, b, l3, l3 + 2) || !same(a, b, l3 + 6, l3 + 10) || !same(a, b, l3 + 12, l4)) return false;
    // RFC 6864: with DF the identification means nothing.
    if (first_.mayFragment && next.ipId != static_cast<uint16_t>(first_.ipId + segments_)) return false;
  }
  if (!tcp) return same(a, b, l4, l4 + kUdpLength);
  return same(a, b, l4, l4 + 4) && same(a, b, l4 + 8, l4 + 13) && same(a, b, l4 + 14, l4 + 16) &&
         same(a, b, l4 + 18, first_.headerBytes);
}

const iovec* Coalescer::finish(uint32_t vnetBytes, uint32_t& count) noexcept {
  VnetHdr header;
  header.flags = kHdrNeedsCsum;
  const bool udp = first_.protocol == kUdp;
  const uint16_t checksum = checksumOffset(first_.protocol);
  header.gsoType = udp ? kGsoUdpL4 : first_.ipv6 ? kGsoTcp6 : kGsoTcp4;
  header.hdrLen = first_.headerBytes;
  header.gsoSize = static_cast<uint16_t>(first_.payloadBytes);
  header.csumStart = first_.l4;
  header.csumOffset = checksum;
  header.numBuffers = 1;
  header.write(merged_.data(), vnetBytes);
  uint8_t* const out = merged_.data() + vnetBytes;
  std::memcpy(out, first_.headers.data(), first_.headerBytes);
  uint8_t* const ip = out + first_.l3;
  uint8_t* const transport = out + first_.l4;
  const uint32_t l4Bytes = first_.headerBytes - first_.l4 + payloadBytes_;
  if (first_.ipv6) {
    putBe16(ip + 4, l4Bytes);
  } else {
    putBe16(ip + 2, l4Bytes + 20);
    ip[10] = ip[11] = 0;
    const auto sum = static_cast<uint16_t>(~checksumFold(checksumAdd(0, ip, 20)));
    std::memcpy(ip + 10, &sum, sizeof sum);
  }
  if (push_) transport[13] |= kTcpPsh;
  if (udp) putBe16(transport + kUdpLength, l4Bytes);
  const uint16_t pseudo =
      checksumFold(pseudoHeaderSum(ip + (first_.ipv6 ? 8 : 12), first_.ipv6, first_.protocol, l4Bytes));
  std::memcpy(transport + checksum, &pseudo, sizeof pseudo);
  parts_[0] = iovec{merged_.data(), size_t{vnetBytes} + first_.headerBytes};
  count = partCount_;
  return parts_.data();
}

// Where a frame belongs. Leaves it in segment_ and frame_ when it joined or begins a run.
FlowTable::Verdict FlowTable::admit(const iovec* spans, uint32_t count, uint32_t vnetBytes, Run*& run) noexcept {
  if (count == 0 || count > kMaxSpans || spans[0].iov_len < vnetBytes) return Verdict::kPassBehindAll;
  auto* const start = static_cast<uint8_t*>(spans[0].iov_base);
  std::copy_n(spans, count, frame_.data());
  frame_[0] = iovec{start + vnetBytes, spans[0].iov_len - vnetBytes};
  SegmentKind kind = classifySegment(VnetHdr::read(start, vnetBytes), frame_.data(), count, segment_);
  if (kind == SegmentKind::kOther) return Verdict::kPassBehindAll;
  if (segment_.protocol == kUdp && !mergesDatagrams_) kind = SegmentKind::kFlow;
  frameBytes_ = segment_.headerBytes + uint64_t{segment_.payloadBytes};
  Run* free = nullptr;
  for (Run& candidate : runs_) {
    if (candidate.merged.empty()) {
      if (free == nullptr) free = &candidate;
      continue;
    }
    if (!sameFlow(candidate.merged.first(), segment_)) continue;
    run = &candidate;
    if (kind == SegmentKind::kFlow) return Verdict::kPassBehindRun;
    return candidate.merged.append(segment_, frame_.data(), count) ? Verdict::kJoined : Verdict::kNew;
  }
  if (kind == SegmentKind::kFlow) return Verdict::kPass;
  run = free != nullptr ? free : &runs_[victim_++ % kFlows];
  return Verdict::kNew;
}

void FlowTable::begin(Run& run, const iovec* spans, uint32_t count) noexcept {
  run.merged.begin(segment_, frame_.data(), count);
  std::copy_n(spans, count, run.firstSpans.data());
  run.firstCount = count;
}

CoalescedFrame FlowTable::finish(Run& run, uint32_t vnetBytes) noexcept {
  CoalescedFrame out;
  out.frames = run.merged.segments();
  out.bytes = run.bytes;
  out.datagrams = run.merged.first().protocol == kUdp;
  if (out.frames == 1) {
    out.parts = run.firstSpans.data();
    out.partCount = run.firstCount;
  } else {
    out.parts = run.merged.finish(vnetBytes, out.partCount);
  }
  return out;
}

uint32_t FlowTable::pending() const noexcept {
  uint32_t frames = 0;
  for (const Run& run : runs_) frames += run.merged.segments();
  return frames;
}

void FlowTable::clear() noexcept {
  for (Run& run : runs_) {
    run.merged.clear();
    run.bytes = 0;
  }
}

}  // namespace vu
