// Software coalescing: what is merged, byte for byte, what is not, and which frames it was made of.
#include "coalesced_burst.h"
#include "segment.h"

namespace vu::test {
namespace {

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
  Burst burst(false);
  const std::vector<Packet> parts = stream(packet, 18, 2);
  for (const Packet& part : parts) burst.add(part);
  burst.flush();
  ASSERT_EQ(burst.written.size(), 2U);
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(burst.written[i].bytes, reference::withHeader({}, parts[i].build(Checksum::kComplete)));
    EXPECT_TRUE(burst.written[i].datagrams);
  }
}

TEST(Coalesced, DatagramsForAGroupPassAsTheyCame) {
  Packet packet;
  packet.udp = true;
  packet.macs[0] |= 1;
  Burst burst;
  for (const Packet& part : stream(packet, 300, 2)) burst.add(part);
  burst.flush();
  EXPECT_EQ(burst.written.size(), 2U);
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

}  // namespace
}  // namespace vu::test
