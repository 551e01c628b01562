#include "segment.h"

#include <algorithm>

#include "checksum.h"
#include "frame_fields.h"

namespace vu {
namespace {

constexpr uint32_t kIpv6Bytes = 40;
constexpr uint32_t kTcpBytes = 20;
constexpr uint8_t kTcpFin = 0x01;
constexpr uint8_t kTcpCwr = 0x80;

// Follows the extension headers (RFC 8200, 4.1) from `ip` to TCP at ip + l4. `rerouted`: the destination in the IPv6
// header is not the last one, so it is not the one in the pseudo-header (RFC 8200, 8.1).
SegmentRefusal walkExtensions(const uint8_t* ip, uint32_t l4, bool& rerouted) noexcept {
  constexpr uint8_t kHopByHop = 0;
  constexpr uint8_t kRouting = 43;
  constexpr uint8_t kFragment = 44;
  constexpr uint8_t kDestination = 60;
  uint8_t next = ip[6];
  for (uint32_t at = kIpv6Bytes; at < l4;) {
    if (next == kFragment) return SegmentRefusal::kFragment;
    if (next != kHopByHop && next != kRouting && next != kDestination) return SegmentRefusal::kExtensions;
    if (at + 8 > l4) return SegmentRefusal::kExtensions;
    const uint32_t bytes = (ip[at + 1] + 1U) * 8;
    if (at + bytes > l4) return SegmentRefusal::kExtensions;
    if (next == kRouting && ip[at + 3] != 0) rerouted = true;
    next = ip[at];
    at += bytes;
  }
  return next == kTcp ? SegmentRefusal::kNone : SegmentRefusal::kExtensions;
}

SegmentRefusal plan(const uint8_t* frame, uint32_t bytes, const VnetHdr& header, SegmentPlan& plan) noexcept {
  const uint8_t type = header.gsoType & static_cast<uint8_t>(~kGsoEcn);
  if (type != kGsoTcp4 && type != kGsoTcp6) return SegmentRefusal::kType;
  if (header.gsoSize == 0) return SegmentRefusal::kSize;
  if ((header.flags & kHdrNeedsCsum) == 0 || header.csumOffset != kTcpChecksum) return SegmentRefusal::kChecksum;
  if (bytes < kEthernetBytes + 20U + kTcpBytes) return SegmentRefusal::kShort;
  const auto known = static_cast<uint32_t>(std::min<size_t>(bytes, plan.headers.size()));
  std::copy_n(frame, known, plan.headers.data());
  const uint8_t* const headers = plan.headers.data();
  const auto beyond = [&] { return known < bytes ? SegmentRefusal::kHeaders : SegmentRefusal::kShort; };

  uint16_t etherType = 0;
  plan.l3 = networkOffset(headers, etherType);
  plan.l4 = header.csumStart;
  plan.ipv6 = type == kGsoTcp6;
  if (plan.l4 + kTcpBytes > known) return beyond();
  const uint8_t* const ip = headers + plan.l3;
  bool rerouted = false;
  if (plan.ipv6) {
    if (etherType != 0x86dd || ip[0] >> 4 != 6) return SegmentRefusal::kNetwork;
    if (plan.l3 + kIpv6Bytes > plan.l4) return SegmentRefusal::kChecksum;
    const SegmentRefusal refusal = walkExtensions(ip, static_cast<uint32_t>(plan.l4 - plan.l3), rerouted);
    if (refusal != SegmentRefusal::kNone) return refusal;
  } else {
    const uint32_t ihl = (ip[0] & 0x0fU) * 4;
    if (etherType != 0x0800 || ip[0] >> 4 != 4 || ihl < 20 || ip[9] != kTcp) return SegmentRefusal::kNetwork;
    if (plan.l3 + ihl != plan.l4) return SegmentRefusal::kChecksum;
    if ((be16(ip + 6) & 0x3fff) != 0) return SegmentRefusal::kFragment;
  }
  const uint8_t* const tcp = headers + plan.l4;
  const uint32_t headerBytes = plan.l4 + (tcp[12] >> 4) * 4U;
  if (headerBytes < plan.l4 + kTcpBytes) return SegmentRefusal::kTransport;
  if (headerBytes > known) return beyond();
  if (headerBytes >= bytes) return SegmentRefusal::kNoPayload;
  plan.headerBytes = static_cast<uint16_t>(headerBytes);
  plan.mss = header.gsoSize;
  plan.payloadBytes = bytes - headerBytes;
  plan.count = (plan.payloadBytes + plan.mss - 1) / plan.mss;
  if (plan.count > kMaxSegmentsOfFrame) return SegmentRefusal::kSegments;
  // The IPv4 length counts its header, the IPv6 one does not.
  const uint32_t counted = plan.l3 + (plan.ipv6 ? kIpv6Bytes : 0);
  if (headerBytes - counted + std::min<uint32_t>(plan.mss, plan.payloadBytes) > 0xffff) return SegmentRefusal::kSize;

  if (rerouted) {
    // The sender's sum, which has the last destination, less the length of the whole.
    uint16_t field = 0;
    std::memcpy(&field, tcp + kTcpChecksum, sizeof field);
    const uint32_t whole = bytes - plan.l4;
    plan.pseudoSum =
        field + checksumWord(static_cast<uint16_t>(~whole)) + checksumWord(static_cast<uint16_t>(~(whole >> 16)));
  } else {
    plan.pseudoSum = pseudoHeaderSum(ip + (plan.ipv6 ? 8 : 12), plan.ipv6, kTcp, 0);
  }
  return SegmentRefusal::kNone;
}

}  // namespace

bool planSegments(const uint8_t* frame, uint32_t bytes, const VnetHdr& header, SegmentPlan& out) noexcept {
  out.refusal = plan(frame, bytes, header, out);
  return out.refusal == SegmentRefusal::kNone;
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
  // Made here and copied once: what was just written to lines that the backend's core has cannot be read for its
  // checksum before they have come, which took an eighth of the time of a stream.
  std::array<uint8_t, kSegmentHeaderRoom> made;
  header.write(made.data(), vnetBytes);

  uint8_t* const out = made.data() + vnetBytes;
  std::memcpy(out, plan.headers.data(), plan.headerBytes);
  uint8_t* const ip = out + plan.l3;
  uint8_t* const tcp = out + plan.l4;
  const uint32_t l4Bytes = plan.headerBytes - plan.l4 + part.sliceBytes;
  if (plan.ipv6) {
    putBe16(ip + 4, plan.l4 - plan.l3 - kIpv6Bytes + l4Bytes);
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
  uint64_t sum = plan.pseudoSum + checksumWord(static_cast<uint16_t>(l4Bytes));
  if (checksum) {
    sum = checksumAdd(sum, tcp, plan.headerBytes - plan.l4);
    sum = checksumAdd(sum, frame + part.sliceOffset, part.sliceBytes);
    sum = static_cast<uint16_t>(~checksumFold(sum));
  }
  const uint16_t folded = checksumFold(sum);
  std::memcpy(tcp + kTcpChecksum, &folded, sizeof folded);
  std::memcpy(slab, made.data(), part.slabBytes);
  return part;
}

}  // namespace vu
