// Software segmentation: byte for byte what a card with TSO would send, and why a frame is refused.
#include "segment.h"

#include <gtest/gtest.h>

#include <memory>

#include "packet_reference.h"

namespace vu::test {
namespace {

using reference::Bytes;
using reference::Checksum;
using reference::Packet;

// Allocations of exact size: a sanitizer sees a byte too many.
std::vector<Bytes> segmentsOf(const Bytes& frame, const VnetHdr& header, uint32_t vnetBytes, bool checksum,
                              SegmentPlan& plan) {
  const std::unique_ptr<uint8_t[]> exact(new uint8_t[frame.size()]);
  std::copy(frame.begin(), frame.end(), exact.get());
  std::vector<Bytes> out;
  if (!planSegments(exact.get(), static_cast<uint32_t>(frame.size()), header, plan)) return out;
  for (uint32_t i = 0; i < plan.count; ++i) {
    const std::unique_ptr<uint8_t[]> slab(new uint8_t[kSegmentHeaderRoom]);
    const SegmentPart part = writeSegment(plan, i, exact.get(), vnetBytes, checksum, slab.get());
    Bytes whole(slab.get(), slab.get() + part.slabBytes);
    whole.insert(whole.end(), exact.get() + part.sliceOffset, exact.get() + part.sliceOffset + part.sliceBytes);
    out.push_back(whole);
  }
  return out;
}

void expectSegments(const Packet& packet, uint16_t gsoSize, bool ecn, bool checksum) {
  VnetHdr header = packet.gsoHeader(gsoSize);
  if (ecn) header.gsoType |= kGsoEcn;
  SegmentPlan plan;
  const std::vector<Bytes> got = segmentsOf(packet.build(Checksum::kPartial), header, 12, checksum, plan);
  ASSERT_EQ(plan.refusal, SegmentRefusal::kNone);
  const std::vector<Packet> expected = packet.segments(gsoSize);
  ASSERT_EQ(got.size(), expected.size());
  for (size_t i = 0; i < got.size(); ++i) {
    const VnetHdr partHeader = checksum ? VnetHdr{} : expected[i].partialHeader();
    const Bytes wanted =
        reference::withHeader(partHeader, expected[i].build(checksum ? Checksum::kComplete : Checksum::kPartial));
    ASSERT_EQ(got[i], wanted) << "segment " << i;
  }
}

TEST(Segments, AreByteForByteThoseOfTheReferenceForRandomFrames) {
  std::mt19937 random(11);
  for (int round = 0; round < 400; ++round) {
    const size_t payload = 1 + random() % (round % 8 == 0 ? 65000 : 6000);
    const Packet packet = reference::randomPacket(random, payload, false);
    if (packet.headerBytes() - packet.l3() + payload > 0xffff) continue;
    const auto gsoSize = static_cast<uint16_t>(std::max<size_t>(1 + random() % 9000, payload / 4096 + 1));
    SCOPED_TRACE(round);
    expectSegments(packet, gsoSize, random() % 2 != 0, round % 2 != 0);
    if (HasFatalFailure()) return;
  }
}

TEST(Segments, IdentificationAndSequenceNumberWrap) {
  std::mt19937 random(12);
  Packet packet;
  packet.id = 0xfffe;
  packet.seq = 0xfffffff0;
  packet.payload = reference::randomBytes(random, 5000);
  packet.flags = 0x99;
  expectSegments(packet, 1000, true, true);
}

TEST(Segments, LargestFrameOfEachFamilyIsCut) {
  std::mt19937 random(13);
  Packet packet;
  packet.payload = reference::randomBytes(random, 0xffff - 40);
  expectSegments(packet, 1460, false, true);
  packet.ipv6 = true;
  packet.payload = reference::randomBytes(random, 0xffff - 20);
  expectSegments(packet, 1440, false, false);
  expectSegments(packet, 0xffff, false, true);
}

TEST(Segments, LegacyHeaderHasTenBytes) {
  std::mt19937 random(14);
  Packet packet;
  packet.payload = reference::randomBytes(random, 2500);
  SegmentPlan plan;
  const std::vector<Bytes> got = segmentsOf(packet.build(Checksum::kPartial), packet.gsoHeader(1000), 10, false, plan);
  ASSERT_EQ(got.size(), 3U);
  const Packet last = packet.segments(1000)[2];
  Bytes expected = reference::withHeader(last.partialHeader(), last.build(Checksum::kPartial));
  expected.erase(expected.begin() + 10, expected.begin() + 12);
  EXPECT_EQ(got[2], expected);
}

TEST(Segments, ChecksumOfARoutedPacketHasTheLastDestination) {
  std::mt19937 random(15);
  Packet packet;
  packet.ipv6 = true;
  packet.payload = reference::randomBytes(random, 4321);
  packet.lastDestination = reference::randomBytes(random, 16);
  packet.firstNext = 43;
  // Segment routing (RFC 8754): one segment left, two addresses.
  packet.extensions = reference::extension(6, 40);
  packet.extensions[2] = 4;
  packet.extensions[3] = 1;
  expectSegments(packet, 1400, false, true);
  expectSegments(packet, 1400, false, false);
}

struct Refused {
  const char* why;
  SegmentRefusal refusal;
  void (*spoil)(Packet& packet, VnetHdr& header, Bytes& frame);
  bool ipv6 = false;
};

class SegmentationRefused : public ::testing::TestWithParam<Refused> {};

TEST_P(SegmentationRefused, ForThisReason) {
  const Refused& c = GetParam();
  std::mt19937 random(16);
  Packet packet;
  packet.ipv6 = c.ipv6;
  packet.payload = reference::randomBytes(random, 4000);
  VnetHdr header = packet.gsoHeader(1000);
  Bytes frame = packet.build(Checksum::kPartial);
  SegmentPlan plan;
  ASSERT_EQ(segmentsOf(frame, header, 12, true, plan).size(), 4U);
  c.spoil(packet, header, frame);
  EXPECT_TRUE(segmentsOf(frame, header, 12, true, plan).empty());
  EXPECT_EQ(static_cast<int>(plan.refusal), static_cast<int>(c.refusal));
}

// Rebuilds frame and header after a change of the packet.
template <typename Change>
void rebuild(Packet& packet, VnetHdr& header, Bytes& frame, Change change) {
  change(packet);
  header = packet.gsoHeader(header.gsoSize);
  frame = packet.build(Checksum::kPartial);
}

using R = SegmentRefusal;
INSTANTIATE_TEST_SUITE_P(
    Segments, SegmentationRefused,
    ::testing::Values(
        Refused{"no_segmentation", R::kType, [](Packet&, VnetHdr& h, Bytes&) { h.gsoType = kGsoNone; }},
        Refused{"ufo", R::kType, [](Packet&, VnetHdr& h, Bytes&) { h.gsoType = kGsoUdp; }},
        Refused{"udp_l4", R::kType, [](Packet&, VnetHdr& h, Bytes&) { h.gsoType = kGsoUdpL4; }},
        Refused{"tunnel", R::kType, [](Packet&, VnetHdr& h, Bytes&) { h.gsoType = kGsoTcp4 | 0x20; }},
        Refused{"gso_size_zero", R::kSize, [](Packet&, VnetHdr& h, Bytes&) { h.gsoSize = 0; }},
        Refused{"segment_beyond_ip_length", R::kSize,
                [](Packet&, VnetHdr& h, Bytes& f) {
                  f.resize(66000);
                  h.gsoSize = 0xffff;
                }},
        Refused{"too_many_segments", R::kSegments,
                [](Packet&, VnetHdr& h, Bytes& f) {
                  f.resize(54 + kMaxSegmentsOfFrame + 1);
                  h.gsoSize = 1;
                }},
        Refused{"no_needs_csum", R::kChecksum, [](Packet&, VnetHdr& h, Bytes&) { h.flags = 0; }},
        Refused{"checksum_offset_of_udp", R::kChecksum, [](Packet&, VnetHdr& h, Bytes&) { h.csumOffset = 6; }},
        Refused{"checksum_start_before_tcp", R::kChecksum, [](Packet&, VnetHdr& h, Bytes&) { h.csumStart -= 2; }},
        Refused{"checksum_start_after_tcp", R::kChecksum, [](Packet&, VnetHdr& h, Bytes&) { h.csumStart += 4; }},
        Refused{"checksum_start_in_ipv6", R::kChecksum, [](Packet&, VnetHdr& h, Bytes&) { h.csumStart = 40; }, true},
        Refused{"checksum_start_far_away", R::kHeaders, [](Packet&, VnetHdr& h, Bytes&) { h.csumStart = 3000; }},
        Refused{"empty", R::kShort, [](Packet&, VnetHdr&, Bytes& f) { f.clear(); }},
        Refused{"ends_in_ip", R::kShort, [](Packet&, VnetHdr&, Bytes& f) { f.resize(30); }},
        Refused{"ends_in_tcp", R::kShort, [](Packet&, VnetHdr&, Bytes& f) { f.resize(60); }, true},
        Refused{"ends_in_tcp_options", R::kShort,
                [](Packet&, VnetHdr&, Bytes& f) {
                  f.resize(58);
                  f[46] = 0xf0;
                }},
        Refused{"ends_after_tcp", R::kNoPayload, [](Packet&, VnetHdr&, Bytes& f) { f.resize(54); }},
        Refused{"other_ethertype", R::kNetwork, [](Packet&, VnetHdr&, Bytes& f) { f[13] = 6; }},
        Refused{"three_vlan_tags", R::kNetwork,
                [](Packet& p, VnetHdr& h, Bytes& f) { rebuild(p, h, f, [](Packet& q) { q.vlans = {1, 2, 3}; }); }},
        Refused{"ipv6_said_to_be_ipv4", R::kNetwork, [](Packet&, VnetHdr& h, Bytes&) { h.gsoType = kGsoTcp4; }, true},
        Refused{"ipv4_said_to_be_ipv6", R::kNetwork, [](Packet&, VnetHdr& h, Bytes&) { h.gsoType = kGsoTcp6; }},
        Refused{"ip_version_5", R::kNetwork, [](Packet&, VnetHdr&, Bytes& f) { f[14] = 0x55; }},
        Refused{"ipv6_version_4", R::kNetwork, [](Packet&, VnetHdr&, Bytes& f) { f[14] = 0x40; }, true},
        Refused{"ipv4_header_of_16_bytes", R::kNetwork, [](Packet&, VnetHdr&, Bytes& f) { f[14] = 0x44; }},
        Refused{"udp_inside", R::kNetwork, [](Packet&, VnetHdr&, Bytes& f) { f[23] = 17; }},
        Refused{"ipv4_more_fragments", R::kFragment, [](Packet&, VnetHdr&, Bytes& f) { f[20] = 0x20; }},
        Refused{"ipv4_fragment_offset", R::kFragment, [](Packet&, VnetHdr&, Bytes& f) { f[21] = 1; }},
        Refused{"ipv6_fragment", R::kFragment,
                [](Packet& p, VnetHdr& h, Bytes& f) {
                  rebuild(p, h, f, [](Packet& q) { q.firstNext = 44, q.extensions = reference::extension(6, 8); });
                },
                true},
        Refused{"ipv6_authentication", R::kExtensions,
                [](Packet& p, VnetHdr& h, Bytes& f) {
                  rebuild(p, h, f, [](Packet& q) { q.firstNext = 51, q.extensions = reference::extension(6, 24); });
                },
                true},
        Refused{"ipv6_udp_inside", R::kExtensions, [](Packet&, VnetHdr&, Bytes& f) { f[20] = 17; }, true},
        Refused{"ipv6_extension_leads_past_tcp", R::kExtensions,
                [](Packet& p, VnetHdr& h, Bytes& f) {
                  rebuild(p, h, f, [](Packet& q) {
                    q.firstNext = 0;
                    q.extensions = reference::extension(6, 8);
                    q.extensions[1] = 9;
                  });
                },
                true},
        Refused{"ipv6_extension_cut_off", R::kExtensions,
                [](Packet& p, VnetHdr& h, Bytes& f) {
                  rebuild(p, h, f, [](Packet& q) { q.firstNext = 60, q.extensions = Bytes{6, 0, 0, 0}; });
                },
                true},
        Refused{"ipv6_extensions_lead_to_udp", R::kExtensions,
                [](Packet& p, VnetHdr& h, Bytes& f) {
                  rebuild(p, h, f, [](Packet& q) { q.firstNext = 60, q.extensions = reference::extension(17, 8); });
                },
                true},
        Refused{"tcp_header_of_16_bytes", R::kTransport, [](Packet&, VnetHdr&, Bytes& f) { f[46] = 0x40; }},
        Refused{"ipv6_headers_beyond_the_room", R::kHeaders,
                [](Packet& p, VnetHdr& h, Bytes& f) {
                  rebuild(p, h, f, [](Packet& q) { q.firstNext = 60, q.extensions = reference::extension(6, 248); });
                },
                true},
        Refused{"tcp_options_beyond_the_room", R::kHeaders,
                [](Packet& p, VnetHdr& h, Bytes& f) {
                  rebuild(p, h, f, [](Packet& q) {
                    q.firstNext = 60;
                    q.extensions = reference::extension(6, 160);
                    q.tcpOptions = Bytes(40, 1);
                  });
                },
                true}),
    [](const auto& info) { return std::string(info.param.why); });

TEST(Segments, EveryTruncationIsRefusedOrCutWithoutReadingOutside) {
  std::mt19937 random(17);
  for (int round = 0; round < 20; ++round) {
    const Packet packet = reference::randomPacket(random, 300, false);
    const Bytes frame = packet.build(Checksum::kPartial);
    for (size_t bytes = 0; bytes <= frame.size(); ++bytes) {
      SegmentPlan plan;
      const std::vector<Bytes> got = segmentsOf(reference::cut(frame, 0, bytes), packet.gsoHeader(100), 12, true, plan);
      ASSERT_EQ(got.empty(), bytes <= packet.headerBytes()) << bytes;
    }
  }
}

}  // namespace
}  // namespace vu::test
