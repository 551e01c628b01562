// Software coalescing: what is merged, byte for byte, what is not, and which frames it was made of.
#include "coalesce.h"

#include <gtest/gtest.h>

#include <deque>
#include <map>
#include <memory>

#include "packet_reference.h"
#include "segment.h"

namespace vu::test {
namespace {

using reference::Bytes;
using reference::Checksum;
using reference::Packet;

constexpr uint8_t kPsh = 0x08;

// Buffers that a frame lies in; each an allocation of its own size, so that a sanitizer sees a byte too many.
struct Buffers {
  // Cut after `cuts` bytes, ascending; vnet header included.
  Buffers(const Bytes& whole, const std::vector<size_t>& cuts) {
    size_t start = 0;
    for (size_t i = 0; i <= cuts.size(); ++i) {
      const size_t end = i < cuts.size() ? std::min(cuts[i], whole.size()) : whole.size();
      memory.emplace_back(new uint8_t[end - start]);
      std::copy(whole.begin() + static_cast<long>(start), whole.begin() + static_cast<long>(end), memory.back().get());
      spans.push_back(iovec{memory.back().get(), end - start});
      start = end;
    }
  }
  std::vector<std::unique_ptr<uint8_t[]>> memory;
  std::vector<iovec> spans;
};

struct Written {
  Bytes bytes;
  uint32_t frames;
  uint32_t parts;
  uint64_t counted;
  bool datagrams;
  // Numbers of the received frames whose buffers it lies in, in its order.
  std::vector<uint32_t> members;
};

// A pump's burst.
class Burst {
 public:
  // Returns the number of the frame.
  uint32_t add(const VnetHdr& header, const Bytes& frame, const std::vector<size_t>& cuts = {}) {
    return addRaw(reference::withHeader(header, frame), cuts);
  }
  uint32_t addRaw(const Bytes& whole, const std::vector<size_t>& cuts = {}) {
    const Buffers& buffers = received.emplace_back(whole, cuts);
    const auto number = static_cast<uint32_t>(received.size() - 1);
    for (const iovec& span : buffers.spans) frameAt_[span.iov_base] = number;
    table->add(buffers.spans.data(), static_cast<uint32_t>(buffers.spans.size()), 12,
               [this](const CoalescedFrame& frame) { take(frame); });
    return number;
  }
  uint32_t add(const Packet& packet, Checksum checksum = Checksum::kComplete) {
    return add(checksum == Checksum::kComplete ? VnetHdr{} : packet.partialHeader(), packet.build(checksum));
  }
  void flush() {
    table->flush(12, [this](const CoalescedFrame& frame) { take(frame); });
  }

  std::unique_ptr<FlowTable> table = std::make_unique<FlowTable>();
  std::deque<Buffers> received;
  std::vector<Written> written;

 private:
  void take(const CoalescedFrame& frame) {
    Written out{{}, frame.frames, frame.partCount, frame.bytes, frame.datagrams, {}};
    for (uint32_t i = 0; i < frame.partCount; ++i) {
      const auto* start = static_cast<const uint8_t*>(frame.parts[i].iov_base);
      out.bytes.insert(out.bytes.end(), start, start + frame.parts[i].iov_len);
      if (frame.frames > 1 && i == 0) continue;  // The header, made anew.
      const uint32_t number = std::prev(frameAt_.upper_bound(start))->second;
      if (out.members.empty() || out.members.back() != number) out.members.push_back(number);
    }
    written.push_back(out);
  }

  // By the start of each buffer.
  std::map<const void*, uint32_t> frameAt_;
};

// `count` segments of one stream.
std::vector<Packet> stream(Packet packet, size_t mss, size_t count, size_t lastBytes = 0) {
  std::mt19937 random(21);
  const size_t total = mss * count - (lastBytes != 0 ? mss - lastBytes : 0);
  packet.payload = reference::randomBytes(random, total);
  return packet.segments(static_cast<uint16_t>(mss));
}

Bytes mergedBytes(Packet whole, uint16_t gsoSize) {
  VnetHdr header = whole.gsoHeader(gsoSize);
  header.numBuffers = 1;
  return reference::withHeader(header, whole.build(Checksum::kPartial));
}

Packet join(const std::vector<Packet>& parts) {
  Packet whole = parts.front();
  for (size_t i = 1; i < parts.size(); ++i) reference::append(whole.payload, parts[i].payload);
  whole.flags = static_cast<uint8_t>(whole.flags | parts.back().flags);
  return whole;
}

TEST(Coalesced, FrameIsByteForByteTheReferenceForRandomStreams) {
  std::mt19937 random(22);
  for (int round = 0; round < 300; ++round) {
    SCOPED_TRACE(round);
    const size_t mss = 1 + random() % (round % 4 == 0 ? 9000 : 1500);
    const size_t most = std::min<size_t>(64, (65000 - 130) / mss);
    const size_t count = 2 + random() % (most - 1);
    Packet packet = reference::randomPacket(random, 1 + mss * (count - 1) + random() % mss, true);
    if (random() % 2 != 0) packet.flags |= kPsh;
    packet.udp = random() % 3 == 0;
    const std::vector<Packet> parts = packet.segments(static_cast<uint16_t>(mss));
    ASSERT_EQ(parts.size(), count);
    Burst burst;
    std::vector<uint32_t> members;
    for (const Packet& part : parts) {
      members.push_back(burst.add(part, random() % 2 != 0 ? Checksum::kPartial : Checksum::kComplete));
    }
    burst.flush();
    ASSERT_EQ(burst.written.size(), 1U);
    EXPECT_EQ(burst.written[0].frames, count);
    EXPECT_EQ(burst.written[0].members, members);
    EXPECT_EQ(burst.written[0].counted, count * packet.headerBytes() + packet.payload.size());
    ASSERT_EQ(burst.written[0].bytes, mergedBytes(packet, static_cast<uint16_t>(mss)));
  }
}

TEST(Coalesced, SegmentsOfSoftwareSegmentationAreTheFrameAgain) {
  std::mt19937 random(23);
  for (int round = 0; round < 200; ++round) {
    SCOPED_TRACE(round);
    const size_t mss = 88 + random() % 4000;
    const size_t payload = mss + 1 + random() % (std::min<size_t>(mss * 64, 64800) - mss - 1);
    Packet packet = reference::randomPacket(random, payload, true);
    packet.flags |= kPsh;
    const Bytes frame = packet.build(Checksum::kPartial);
    const bool checksum = random() % 2 != 0;
    SegmentPlan plan;
    ASSERT_TRUE(planSegments(frame.data(), static_cast<uint32_t>(frame.size()),
                             packet.gsoHeader(static_cast<uint16_t>(mss)), plan));
    Burst burst;
    for (uint32_t i = 0; i < plan.count; ++i) {
      std::array<uint8_t, kSegmentHeaderRoom> slab;
      const SegmentPart part = writeSegment(plan, i, frame.data(), 12, checksum, slab.data());
      Bytes segment(slab.data(), slab.data() + part.slabBytes);
      reference::append(segment, reference::cut(frame, part.sliceOffset, part.sliceBytes));
      burst.addRaw(segment);
    }
    burst.flush();
    ASSERT_EQ(burst.written.size(), 1U);
    ASSERT_EQ(burst.written[0].bytes, mergedBytes(packet, static_cast<uint16_t>(mss)));
  }
}

TEST(Coalesced, FramesInSeveralBuffersMergeWhereverTheyAreCut) {
  std::mt19937 random(24);
  for (const int kind : {0, 1, 2, 3}) {
    Packet packet;
    packet.ipv6 = (kind & 1) != 0;
    packet.udp = (kind & 2) != 0;
    packet.tcpOptions = Bytes(12, 1);
    const std::vector<Packet> parts = stream(packet, 301, 5);
    for (size_t cut = 12; cut < 420; ++cut) {
      Burst burst;
      for (const Packet& part : parts) {
        std::vector<size_t> cuts{cut};
        for (uint32_t more = 0; more < random() % 3; ++more) cuts.push_back(cuts.back() + random() % 200);
        burst.add(VnetHdr{}, part.build(Checksum::kComplete), cuts);
      }
      burst.flush();
      ASSERT_EQ(burst.written.size(), 1U) << cut;
      ASSERT_EQ(burst.written[0].bytes, mergedBytes(join(parts), 301)) << cut;
      EXPECT_EQ(burst.written[0].members.size(), parts.size());
    }
  }
}

TEST(Coalesced, PiecesStayBelowTheirLimitAndNoFrameIsForgotten) {
  const std::vector<Packet> parts = stream(Packet{}, 500, 64);
  Burst burst;
  for (const Packet& part : parts)
    burst.add(VnetHdr{}, part.build(Checksum::kComplete), {12, 30, 66, 100, 200, 300, 400});
  burst.flush();
  uint32_t frames = 0;
  for (const Written& out : burst.written) {
    EXPECT_LE(out.parts, Coalescer::kMaxParts);
    EXPECT_EQ(out.members.size(), out.frames);
    for (const uint32_t got : out.members) EXPECT_EQ(got, frames++);
  }
  EXPECT_EQ(burst.written.size(), 3U);  // Room for 8 buffers is asked for; the header's three take none.
  EXPECT_EQ(frames, 64U);
}

TEST(Coalesced, FrameOfMoreBuffersThanItCanKeepPassesBehindItsFlow) {
  const std::vector<Packet> parts = stream(Packet{}, 500, 2);
  Burst burst;
  burst.add(parts[0]);
  burst.add(VnetHdr{}, parts[1].build(Checksum::kComplete), {20, 30, 40, 50, 60, 70, 80, 90});
  ASSERT_EQ(burst.written.size(), 2U);
  EXPECT_EQ(burst.written[0].bytes, reference::withHeader({}, parts[0].build(Checksum::kComplete)));
  EXPECT_EQ(burst.written[1].bytes, reference::withHeader({}, parts[1].build(Checksum::kComplete)));
  EXPECT_EQ(burst.written[1].parts, 9U);
}

TEST(Coalesced, RunEndsAtSixtyFourSegments) {
  Burst burst;
  for (const Packet& part : stream(Packet{}, 100, 70)) burst.add(part);
  ASSERT_EQ(burst.written.size(), 1U);
  EXPECT_EQ(burst.written[0].frames, 64U);
  burst.flush();
  EXPECT_EQ(burst.written[1].frames, 6U);
}

TEST(Coalesced, FrameHasAtMost65000Bytes) {
  // 54 bytes of headers: 64 segments of 1014 are 64950 bytes, of 1015 are 65014.
  for (const auto& [mss, frames] : {std::pair{1014U, 64U}, std::pair{1015U, 63U}}) {
    Burst burst;
    for (const Packet& part : stream(Packet{}, mss, 64)) burst.add(part);
    burst.flush();
    EXPECT_EQ(burst.written[0].frames, frames) << mss;
    EXPECT_LE(burst.written[0].bytes.size(), 12U + 65000U);
  }
}

TEST(Coalesced, FrameOfExactly65000BytesIsTheLargest) {
  for (const auto& [last, frames] : {std::pair{1001U, 64U}, std::pair{1002U, 63U}}) {
    Burst burst;
    for (const Packet& part : stream(Packet{}, 1015, 64, last)) burst.add(part);
    burst.flush();
    EXPECT_EQ(burst.written[0].frames, frames) << last;
  }
}

TEST(Coalesced, RunAloneRefusesASegmentThatHasNoRoomForItsPieces) {
  Coalescer run;
  uint32_t accepted = 0;
  for (const Packet& part : stream(Packet{}, 300, 64)) {
    const Bytes frame = part.build(Checksum::kComplete);
    const Buffers buffers(frame, {60, 100});
    Segment segment;
    ASSERT_EQ(classifySegment(VnetHdr{}, buffers.spans.data(), 3, segment), SegmentKind::kData);
    if (run.empty()) {
      run.begin(segment, buffers.spans.data(), 3);
    } else if (!run.append(segment, buffers.spans.data(), 3)) {
      break;
    }
    ++accepted;
  }
  EXPECT_EQ(accepted, (Coalescer::kMaxParts - 1) / 3);
  EXPECT_EQ(run.segments(), accepted);
  EXPECT_FALSE(run.closed());
  uint32_t parts = 0;
  run.finish(12, parts);
  EXPECT_EQ(parts, 1 + 3 * accepted);
}

TEST(Coalesced, SegmentsWithReservedBitsStayApart) {
  Packet packet;
  packet.reserved = 1;  // AE of accurate ECN: a count, not a state.
  Burst burst;
  for (const Packet& part : stream(packet, 1000, 2)) burst.add(part);
  EXPECT_EQ(burst.written.size(), 2U);
}

TEST(Coalesced, DatagramsOfOneLengthBecomeOneFrameThatAShorterOneEnds) {
  Packet packet;
  packet.udp = true;
  Burst burst;
  for (const Packet& part : stream(packet, 18, 5, 17)) burst.add(part);
  ASSERT_EQ(burst.written.size(), 1U);
  EXPECT_EQ(burst.written[0].frames, 5U);
  EXPECT_TRUE(burst.written[0].datagrams);
  EXPECT_EQ(burst.written[0].bytes[1], kGsoUdpL4);
}

TEST(Coalesced, DatagramsPassAsTheyCameWhereTheKernelTakesNoRunOfThem) {
  Packet packet;
  packet.udp = true;
  Burst burst;
  burst.table->mergeDatagrams(false);
  const std::vector<Packet> parts = stream(packet, 18, 2);
  for (const Packet& part : parts) burst.add(part);
  burst.flush();
  ASSERT_EQ(burst.written.size(), 2U);
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(burst.written[i].bytes, reference::withHeader({}, parts[i].build(Checksum::kComplete)));
    EXPECT_TRUE(burst.written[i].datagrams);
  }
}

TEST(Coalesced, LengthOfTheMergedDatagramIsThatOfAll) {
  Packet packet;
  packet.udp = true;
  Burst burst;
  for (const Packet& part : stream(packet, 100, 3)) burst.add(part);
  burst.flush();
  ASSERT_EQ(burst.written.size(), 1U);
  EXPECT_EQ(reference::get16(burst.written[0].bytes, 12 + packet.l4() + 4), 308U);
}

TEST(Coalesced, ShortSegmentOrPushEndsTheRunAtOnce) {
  Burst burst;
  for (const Packet& part : stream(Packet{}, 1000, 3, 999)) burst.add(part);
  ASSERT_EQ(burst.written.size(), 1U);
  EXPECT_EQ(burst.written[0].frames, 3U);
  Packet pushed;
  pushed.flags = 0x18;
  for (const Packet& part : stream(pushed, 1000, 3)) burst.add(part);
  ASSERT_EQ(burst.written.size(), 2U);
  EXPECT_EQ(burst.written[1].frames, 3U);
  EXPECT_EQ(burst.table->pending(), 0U);
}

TEST(Coalesced, LoneSegmentIsWrittenFromItsOwnBuffersUntouched) {
  Packet packet;
  packet.payload = Bytes(1000, 5);
  Burst burst;
  VnetHdr header;
  header.flags = kHdrDataValid;
  header.numBuffers = 2;
  burst.add(header, packet.build(Checksum::kComplete), {400});
  EXPECT_TRUE(burst.written.empty());
  burst.flush();
  ASSERT_EQ(burst.written.size(), 1U);
  EXPECT_EQ(burst.written[0].bytes, reference::withHeader(header, packet.build(Checksum::kComplete)));
  EXPECT_EQ(burst.written[0].counted, packet.build(Checksum::kComplete).size());
  EXPECT_EQ(burst.written[0].parts, 2U);
}

TEST(Coalesced, DataThatTheBackendVouchesForIsNotSummed) {
  const std::vector<Packet> parts = stream(Packet{}, 1000, 2);
  Burst burst;
  for (const Packet& part : parts) {
    VnetHdr header;
    header.flags = kHdrDataValid;
    burst.add(header, part.build(Checksum::kPartial));  // As a card may leave it.
  }
  burst.flush();
  ASSERT_EQ(burst.written.size(), 1U);
  EXPECT_EQ(burst.written[0].bytes, mergedBytes(join(parts), 1000));
}

TEST(Coalesced, HeadersThatTheBackendRewritesAfterwardsAreNotRead) {
  const std::vector<Packet> parts = stream(Packet{}, 1000, 3);
  Burst burst;
  for (const Packet& part : parts) {
    burst.add(part);
    std::memset(burst.received.back().memory[0].get(), 0xff, 12 + part.headerBytes());
  }
  burst.flush();
  ASSERT_EQ(burst.written.size(), 1U);
  EXPECT_EQ(burst.written[0].bytes, mergedBytes(join(parts), 1000));
}

// What must not be merged, by what is done to the second of two segments. Both arrive as they came, in order.
struct Apart {
  const char* why;
  void (*change)(Packet& packet);
  void (*spoil)(VnetHdr& header, Bytes& frame) = nullptr;
  bool ipv6 = false;
  uint16_t fragment = 0x4000;
  bool udp = false;
};
Apart datagram(const char* why, void (*change)(Packet&), void (*spoil)(VnetHdr&, Bytes&) = nullptr, bool ipv6 = false) {
  return Apart{why, change, spoil, ipv6, 0x4000, true};
}

class KeptApart : public ::testing::TestWithParam<Apart> {};

TEST_P(KeptApart, BothArriveAsTheyCame) {
  const Apart& c = GetParam();
  Packet packet;
  packet.ipv6 = c.ipv6;
  packet.vlans = {5};
  packet.fragment = c.fragment;
  packet.udp = c.udp;
  packet.tcpOptions = Bytes{1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2};
  std::vector<Packet> parts = stream(packet, 1000, 2);
  {
    Burst control;
    for (const Packet& part : parts) control.add(part);
    control.flush();
    ASSERT_EQ(control.written.size(), 1U);
  }
  c.change(parts[1]);
  VnetHdr header;
  Bytes second = parts[1].build(Checksum::kComplete);
  if (c.spoil != nullptr) c.spoil(header, second);
  Burst burst;
  burst.add(parts[0]);
  burst.add(header, second);
  burst.flush();
  ASSERT_EQ(burst.written.size(), 2U);
  // Order counts within a flow only.
  const Bytes firstBytes = reference::withHeader({}, parts[0].build(Checksum::kComplete));
  EXPECT_EQ(burst.written[0].bytes, firstBytes);
  EXPECT_EQ(burst.written[1].bytes, reference::withHeader(header, second));
}

const auto kNothing = [](Packet&) {};
INSTANTIATE_TEST_SUITE_P(
    Coalesced, KeptApart,
    ::testing::Values(
        Apart{"gap", [](Packet& p) { p.seq += 1; }}, Apart{"overlap", [](Packet& p) { p.seq -= 1; }},
        Apart{"retransmission", [](Packet& p) { p.seq -= 1000; }},
        Apart{"larger_than_the_first", [](Packet& p) { p.payload.push_back(1); }},
        Apart{"no_payload", [](Packet& p) { p.payload.clear(); }},
        Apart{"source_mac", [](Packet& p) { p.macs[7] ^= 1; }},
        Apart{"destination_mac", [](Packet& p) { p.macs[1] ^= 1; }},
        Apart{"vlan", [](Packet& p) { p.vlans[0] = 6; }}, Apart{"vlan_priority", [](Packet& p) { p.vlans[0] = 0x2005; }},
        Apart{"no_vlan", [](Packet& p) { p.vlans.clear(); }}, Apart{"tpid", [](Packet& p) { p.tpid = 0x88a8; }},
        Apart{"three_vlan_tags", [](Packet& p) { p.vlans = {1, 2, 3}; }},
        Apart{"congestion_experienced", [](Packet& p) { p.trafficClass = 3; }},
        Apart{"traffic_class", [](Packet& p) { p.trafficClass = 3; }, nullptr, true},
        Apart{"ttl", [](Packet& p) { p.ttl = 63; }}, Apart{"hop_limit", [](Packet& p) { p.ttl = 63; }, nullptr, true},
        Apart{"flow_label", [](Packet& p) { p.flowLabel ^= 1; }, nullptr, true},
        Apart{"may_fragment", [](Packet& p) { p.fragment = 0; }},
        Apart{"may_no_longer_fragment", [](Packet& p) { p.fragment = 0x4000; }, nullptr, false, 0},
        Apart{"reserved_ip_flag", [](Packet& p) { p.fragment = 0xc000; }},
        Apart{"more_fragments", [](Packet& p) { p.fragment = 0x2000; }},
        Apart{"fragment_offset", [](Packet& p) { p.fragment = 1; }},
        Apart{"same_identification_without_df", [](Packet& p) { p.id -= 1; }, nullptr, false, 0},
        Apart{"skipped_identification_without_df", [](Packet& p) { p.id += 1; }, nullptr, false, 0},
        Apart{"ip_options", [](Packet& p) { p.ipOptions = Bytes(4, 1); }},
        Apart{"extension_header",
              [](Packet& p) { p.firstNext = 60, p.extensions = reference::extension(6, 8); }, nullptr, true},
        Apart{"source_address", [](Packet& p) { p.source[3] ^= 1; }},
        Apart{"source_address_6", [](Packet& p) { p.source[15] ^= 1; }, nullptr, true},
        Apart{"destination_address", [](Packet& p) { p.destination[0] ^= 1; }},
        Apart{"destination_address_6", [](Packet& p) { p.destination[0] ^= 1; }, nullptr, true},
        Apart{"source_port", [](Packet& p) { p.sourcePort ^= 1; }},
        Apart{"destination_port", [](Packet& p) { p.destinationPort ^= 0x100; }},
        Apart{"acknowledgement", [](Packet& p) { p.ack += 1; }}, Apart{"window", [](Packet& p) { p.window += 1; }},
        Apart{"urgent_pointer", [](Packet& p) { p.urgent = 1; }},
        Apart{"timestamp", [](Packet& p) { p.tcpOptions[7] = 2; }},
        Apart{"fewer_options", [](Packet& p) { p.tcpOptions = Bytes(8, 1); }},
        Apart{"fin", [](Packet& p) { p.flags = 0x11; }}, Apart{"syn", [](Packet& p) { p.flags = 0x12; }},
        Apart{"rst", [](Packet& p) { p.flags = 0x14; }}, Apart{"urg", [](Packet& p) { p.flags = 0x30; }},
        Apart{"ece", [](Packet& p) { p.flags = 0x50; }}, Apart{"cwr", [](Packet& p) { p.flags = 0x90; }},
        Apart{"no_ack", [](Packet& p) { p.flags = 0; }}, Apart{"reserved_bit", [](Packet& p) { p.reserved = 1; }},
        Apart{"wrong_tcp_checksum", kNothing, [](VnetHdr&, Bytes& f) { f.back() ^= 1; }},
        Apart{"wrong_tcp_checksum_6", kNothing, [](VnetHdr&, Bytes& f) { f.back() ^= 1; }, true},
        Apart{"wrong_ip_checksum", kNothing, [](VnetHdr&, Bytes& f) { f[18 + 10] ^= 1; }},
        Apart{"padding", kNothing, [](VnetHdr&, Bytes& f) { f.push_back(0); }},
        Apart{"padding_6", kNothing, [](VnetHdr&, Bytes& f) { f.push_back(0); }, true},
        Apart{"cut_short", kNothing, [](VnetHdr&, Bytes& f) { f.pop_back(); }},
        Apart{"segmented_already", kNothing, [](VnetHdr& h, Bytes&) { h.gsoType = kGsoTcp4, h.gsoSize = 100; }},
        Apart{"coalesced_by_the_device", kNothing, [](VnetHdr& h, Bytes&) { h.flags = 4; }},
        Apart{"partial_checksum_elsewhere", kNothing,
              [](VnetHdr& h, Bytes&) { h.flags = kHdrNeedsCsum, h.csumStart = 38, h.csumOffset = 6; }},
        Apart{"sctp", kNothing, [](VnetHdr&, Bytes& f) { f[18 + 9] = 132; }},
        Apart{"datagram_beside_tcp", [](Packet& p) { p.udp = true; }},
        datagram("segment_beside_udp", [](Packet& p) { p.udp = false; }),
        datagram("longer_datagram", [](Packet& p) { p.payload.push_back(1); }),
        datagram("empty_datagram", [](Packet& p) { p.payload.clear(); }),
        datagram("datagram_of_another_port", [](Packet& p) { p.sourcePort ^= 1; }),
        datagram("datagram_to_another_port", [](Packet& p) { p.destinationPort ^= 1; }),
        datagram("datagram_to_another_port_6", [](Packet& p) { p.destinationPort ^= 1; }, nullptr, true),
        datagram("datagram_of_another_ttl", [](Packet& p) { p.ttl = 63; }),
        datagram("datagram_with_congestion_experienced", [](Packet& p) { p.trafficClass = 3; }),
        datagram("datagram_without_checksum", kNothing, [](VnetHdr&, Bytes& f) { f[18 + 26] = f[18 + 27] = 0; }),
        datagram("wrong_udp_checksum", kNothing, [](VnetHdr&, Bytes& f) { f.back() ^= 1; }),
        datagram("wrong_udp_checksum_6", kNothing, [](VnetHdr&, Bytes& f) { f.back() ^= 1; }, true),
        datagram("udp_length_below_ip", kNothing, [](VnetHdr&, Bytes& f) { f[18 + 25] ^= 1; }),
        datagram("padded_datagram", kNothing, [](VnetHdr&, Bytes& f) { f.push_back(0); }),
        datagram("datagram_with_checksum_of_tcp", kNothing,
                 [](VnetHdr& h, Bytes&) { h.flags = kHdrNeedsCsum, h.csumStart = 38, h.csumOffset = 16; }),
        datagram("datagrams_merged_already", kNothing,
                 [](VnetHdr& h, Bytes&) { h.gsoType = kGsoUdpL4, h.gsoSize = 100; }),
        Apart{"tcp_header_of_16_bytes", kNothing, [](VnetHdr&, Bytes& f) { f[18 + 20 + 12] = 0x40; }},
        Apart{"tcp_header_longer_than_the_frame", kNothing,
              [](VnetHdr&, Bytes& f) {
                f.resize(18 + 40);
                f[18 + 2] = 0, f[18 + 3] = 40;
              }},
        Apart{"arp", kNothing, [](VnetHdr&, Bytes& f) { f[17] = 6; }},
        Apart{"runt", kNothing, [](VnetHdr&, Bytes& f) { f.resize(20); }}),
    [](const auto& info) { return std::string(info.param.why); });

TEST(Coalesced, IdentificationWithoutDfMayCountUpThroughZero) {
  Packet packet;
  packet.fragment = 0;
  packet.id = 0xfffe;
  Burst burst;
  for (const Packet& part : stream(packet, 1000, 4)) burst.add(part);
  burst.flush();
  ASSERT_EQ(burst.written.size(), 1U);
  EXPECT_EQ(burst.written[0].frames, 4U);
}

TEST(Coalesced, IdentificationWithDfMayBeAnything) {
  std::vector<Packet> parts = stream(Packet{}, 1000, 3);
  parts[1].id = 0;
  parts[2].id = 0;
  Burst burst;
  for (const Packet& part : parts) burst.add(part);
  burst.flush();
  EXPECT_EQ(burst.written.size(), 1U);
}

TEST(FlowTable, FlowsThatAlternateMergeSideBySide) {
  std::vector<std::vector<Packet>> flows;
  for (uint16_t i = 0; i < FlowTable::kFlows; ++i) {
    Packet packet;
    packet.ipv6 = i % 2 != 0;
    packet.sourcePort = static_cast<uint16_t>(50000 + i);
    flows.push_back(stream(packet, 700, 16));
  }
  Burst burst;
  for (size_t k = 0; k < 16; ++k) {
    for (const std::vector<Packet>& flow : flows) burst.add(flow[k]);
  }
  EXPECT_EQ(burst.table->pending(), 16 * FlowTable::kFlows);
  burst.flush();
  ASSERT_EQ(burst.written.size(), flows.size());
  for (size_t i = 0; i < flows.size(); ++i) EXPECT_EQ(burst.written[i].bytes, mergedBytes(join(flows[i]), 700));
}

TEST(FlowTable, OneFlowMoreThanItHoldsTakesAPlaceAndLosesNothing) {
  Burst burst;
  uint32_t frames = 0;
  for (size_t k = 0; k < 4; ++k) {
    for (uint16_t i = 0; i <= FlowTable::kFlows; ++i) {
      Packet packet;
      packet.sourcePort = static_cast<uint16_t>(50000 + i);
      burst.add(stream(packet, 100, 4)[k]);
      ++frames;
    }
  }
  burst.flush();
  uint32_t out = 0;
  for (const Written& written : burst.written) out += written.frames;
  EXPECT_EQ(out, frames);
}

TEST(FlowTable, PureAcknowledgementOfAFlowEndsItsRunAndNoOther) {
  Packet other;
  other.sourcePort = 9;
  const std::vector<Packet> a = stream(Packet{}, 1000, 4);
  const std::vector<Packet> b = stream(other, 1000, 4);
  Packet ack = a[1];
  ack.seq += 1000;
  ack.payload.clear();
  Burst burst;
  burst.add(a[0]), burst.add(b[0]), burst.add(a[1]), burst.add(b[1]);
  burst.add(ack);
  ASSERT_EQ(burst.written.size(), 2U);
  EXPECT_EQ(burst.written[0].bytes, mergedBytes(join({a[0], a[1]}), 1000));
  EXPECT_EQ(burst.written[1].bytes, reference::withHeader({}, ack.build(Checksum::kComplete)));
  burst.add(b[2]), burst.add(b[3]);
  burst.flush();
  ASSERT_EQ(burst.written.size(), 3U);
  EXPECT_EQ(burst.written[2].bytes, mergedBytes(join(b), 1000));
}

TEST(FlowTable, TcpThatHidesItsPortsIsNeverOvertaken) {
  const std::vector<Packet> parts = stream(Packet{}, 1000, 3);
  Packet hidden = parts[1];
  hidden.ipOptions = Bytes(4, 1);
  Burst burst;
  burst.add(parts[0]);
  burst.add(hidden);
  EXPECT_EQ(burst.written.size(), 2U);
  EXPECT_EQ(burst.table->pending(), 0U);
}

TEST(FlowTable, ClearForgetsWhatNoSinkHasSeen) {
  Burst burst;
  for (const Packet& part : stream(Packet{}, 1000, 3)) burst.add(part);
  EXPECT_EQ(burst.table->pending(), 3U);
  burst.table->clear();
  EXPECT_EQ(burst.table->pending(), 0U);
  burst.flush();
  EXPECT_TRUE(burst.written.empty());
  const std::vector<Packet> next = stream(Packet{}, 900, 2);
  for (const Packet& part : next) burst.add(part);
  burst.flush();
  ASSERT_EQ(burst.written.size(), 1U);
  EXPECT_EQ(burst.written[0].bytes, mergedBytes(join(next), 900));
  EXPECT_EQ(burst.written[0].members, (std::vector<uint32_t>{3, 4}));
}

TEST(FlowTable, FrameShorterThanItsHeaderPassesAsItCame) {
  Burst burst;
  burst.addRaw(Bytes(11, 1));
  burst.addRaw(Bytes(12, 0));
  burst.addRaw(Bytes(100, 0), {5});
  ASSERT_EQ(burst.written.size(), 3U);
  EXPECT_EQ(burst.written[2].parts, 2U);
}

// Random traffic of more flows than there is room for, some of it disturbed. Whatever is merged, cut again as a card
// would, must be what each flow sent, in its order, and each frame must come out once.
TEST(FlowTable, EachFlowOfRandomTrafficArrivesAsItWasSent) {
  std::mt19937 random(25);
  for (int round = 0; round < 60; ++round) {
    SCOPED_TRACE(round);
    std::vector<Packet> flows;
    for (uint16_t i = 0; i < 6; ++i) {
      Packet packet = reference::randomPacket(random, 0, true);
      packet.sourcePort = static_cast<uint16_t>(1000 + i);
      packet.udp = i % 2 != 0;
      flows.push_back(packet);
    }
    Burst burst;
    std::vector<std::pair<size_t, Packet>> sent;
    for (int k = 0; k < 200; ++k) {
      const size_t index = random() % 3 != 0 ? random() % 2 : random() % flows.size();
      Packet& flow = flows[index];
      Packet packet = flow;
      packet.payload = reference::randomBytes(random, random() % 4 != 0 ? 300 : random() % 301);
      if (random() % 8 == 0) packet.flags |= kPsh;
      if (random() % 40 == 0) packet.flags |= 1;
      if (random() % 40 == 0) ++flow.ack;
      if (random() % 40 == 0) packet.seq += 17;
      flow.seq += static_cast<uint32_t>(packet.payload.size());
      ++flow.id;
      std::vector<size_t> cuts;
      if (random() % 3 == 0) cuts = {12 + random() % 60, 72 + random() % 100};
      sent.emplace_back(index, packet);
      burst.add(VnetHdr{}, packet.build(Checksum::kComplete), cuts);
      if (random() % 64 == 0) burst.flush();
    }
    burst.flush();
    std::map<size_t, uint32_t> nextOfFlow;
    std::vector<bool> seen(sent.size(), false);
    uint32_t merged = 0;
    for (const Written& out : burst.written) {
      std::vector<Packet> parts;
      for (const uint32_t member : out.members) {
        ASSERT_FALSE(seen[member]);
        seen[member] = true;
        const auto& [index, packet] = sent[member];
        ASSERT_GE(member, nextOfFlow[index]) << "overtaken";
        nextOfFlow[index] = member + 1;
        parts.push_back(packet);
      }
      ASSERT_EQ(parts.size(), out.frames);
      if (out.frames == 1) {
        ASSERT_EQ(out.bytes, reference::withHeader({}, parts[0].build(Checksum::kComplete)));
        continue;
      }
      merged += out.frames;
      const auto gsoSize = static_cast<uint16_t>(parts[0].payload.size());
      const Packet whole = join(parts);
      ASSERT_EQ(out.bytes, mergedBytes(whole, gsoSize));
      const std::vector<Packet> again = whole.segments(gsoSize);
      ASSERT_EQ(again.size(), parts.size());
      for (size_t i = 0; i < parts.size(); ++i) {
        ASSERT_EQ(again[i].build(Checksum::kComplete), parts[i].build(Checksum::kComplete));
      }
    }
    EXPECT_EQ(std::count(seen.begin(), seen.end(), false), 0);
    EXPECT_GT(merged, 20U);
  }
}

}  // namespace
}  // namespace vu::test
