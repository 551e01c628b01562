// Several flows in one burst: each merges by itself, none overtakes itself, and no frame is forgotten.
#include "coalesced_burst.h"

namespace vu::test {
namespace {

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
