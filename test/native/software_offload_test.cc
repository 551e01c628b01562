// What the pump does for a backend that lacks checksum and segmentation offload.
#include <algorithm>

#include "harness.h"
#include "tcp_frames.h"

namespace vu::test {
namespace {

constexpr uint64_t kBare = kFeatureVersion1 | kFeatureMrgRxbuf | kFeatureEventIdx;

BenchOptions software(uint64_t features, uint32_t queueSize = 1024) {
  BenchOptions options;
  options.session.features = features;
  options.session.queueSize = queueSize;
  options.start.softwareGso = true;
  options.start.softwareChecksum = true;
  options.start.softwareGro = true;
  return options;
}

struct Case {
  bool ipv6;
  bool csumOffered;
  uint32_t vlanTags;
  uint32_t payload;
  uint16_t mss;
};

class Segmentation : public ::testing::TestWithParam<std::tuple<RingCase, Case>> {};

TEST_P(Segmentation, LargeFrameBecomesLawfulSegmentsOfTheSameBytes) {
  const auto& [ring, c] = GetParam();
  Bench bench(software(ring.features(kBare) | (c.csumOffered ? kFeatureCsum : 0), 64));
  bench.start();
  TcpSpec spec{.ipv6 = c.ipv6, .vlanTags = c.vlanTags, .payload = c.payload, .flags = 0x99, .gsoSize = c.mss};
  bench.send(tcpFrame(spec));
  const uint32_t count = (c.payload + c.mss - 1) / c.mss;
  uint32_t offset = 0;
  for (uint32_t i = 0; i < count; ++i) {
    Chain chain;
    ASSERT_TRUE(bench.await(chain));
    const Bytes framed = gather(chain);
    const VnetHdr header = VnetHdr::read(framed.data(), 12);
    EXPECT_EQ(header.flags, c.csumOffered ? kHdrNeedsCsum : 0);
    EXPECT_EQ(header.gsoType, kGsoNone);
    EXPECT_EQ(header.numBuffers, 0);
    const TcpSeen seen = parseTcp(Bytes(framed.begin() + 12, framed.end()), c.csumOffered);
    ASSERT_TRUE(seen.lawful) << "segment " << i;
    EXPECT_EQ(seen.seq, spec.seq + offset);
    if (!c.ipv6) {
      EXPECT_EQ(seen.ipId, spec.ipId + i);
    }
    // CWR in the first one only, FIN and PSH in the last one only (RFC 3168, RFC 9293).
    const uint8_t expected = static_cast<uint8_t>(0x10 | (i == 0 ? 0x80 : 0) | (i + 1 == count ? 0x09 : 0));
    EXPECT_EQ(seen.flags, expected);
    for (size_t k = 0; k < seen.payload.size(); ++k) {
      ASSERT_EQ(seen.payload[k], payloadByte(spec.seq + offset + static_cast<uint32_t>(k)));
    }
    offset += static_cast<uint32_t>(seen.payload.size());
    bench.tx().push(chain.head, 0);
    bench.tx().publish();
    bench.tx().notify();
  }
  EXPECT_EQ(offset, c.payload);
  bench.quiesce();
  bench.expectNoLeak();
  bench.expectLawful();
  const CounterTotals totals = bench.counters();
  EXPECT_EQ(totals.txFrames, 1U);
  EXPECT_EQ(totals.event(Event::kGsoFrames), 1U);
  EXPECT_EQ(totals.event(Event::kGsoSegments), count);
}

INSTANTIATE_TEST_SUITE_P(
    Rings, Segmentation,
    ::testing::Combine(::testing::ValuesIn(ringCases()),
                       ::testing::Values(Case{false, false, 0, 64000, 1448}, Case{true, false, 0, 64000, 1428},
                                         Case{false, true, 0, 64000, 1448}, Case{true, true, 1, 2900, 1448},
                                         Case{false, false, 2, 1449, 1448}, Case{false, false, 0, 1448, 1448},
                                         Case{false, false, 1, 65000, 88}, Case{true, false, 0, 2001, 1})),
    [](const auto& info) {
      const Case& c = std::get<1>(info.param);
      return std::get<0>(info.param).name() + (c.ipv6 ? "_ipv6_" : "_ipv4_") + (c.csumOffered ? "csum_" : "") +
             std::to_string(c.vlanTags) + "_" + std::to_string(c.payload) + "_by_" + std::to_string(c.mss);
    });

class SoftwareOffload : public ::testing::TestWithParam<RingCase> {
 protected:
  static BenchOptions usual(uint32_t queueSize = 1024) { return software(GetParam().features(kBare), queueSize); }
};

INSTANTIATE_TEST_SUITE_P(Rings, SoftwareOffload, ::testing::ValuesIn(ringCases()), ringCaseName);

TEST_P(SoftwareOffload, FrameHalfSegmentedAtQuiesceIsLostAndLeaksNothing) {
  Bench bench(usual(64));
  bench.start();
  bench.send(tcpFrame({.payload = 64000, .gsoSize = 1000}));
  ASSERT_TRUE(eventually([&] { return bench.port->counters().event(Event::kTxRingFull) == 1; }));
  bench.quiesce();
  bench.expectNoLeak();
  const uint32_t segments = GetParam().indirect ? 64 : 32;
  EXPECT_EQ(bench.counters().drop(Drop::kTxLost), GetParam().indirect ? segments : segments + 1);
  bench.newSession();
  bench.start();
  const Bytes next = plainFrame(60, 1);
  bench.send(next);
  Chain chain;
  ASSERT_TRUE(bench.await(chain));
  EXPECT_EQ(gather(chain), next) << "a segment of the old session came out of the new one";
}

TEST_P(SoftwareOffload, PartialChecksumIsCompletedAndItsFlagCleared) {
  Bench bench(usual());
  bench.start();
  for (const uint32_t payload : {1U, 500U, 1400U, 5000U}) {
    bench.send(tcpFrame({.payload = payload}));
    Chain chain;
    ASSERT_TRUE(bench.await(chain));
    const Bytes framed = gather(chain);
    EXPECT_EQ(Bytes(framed.begin(), framed.begin() + 12), Bytes(12, 0));
    EXPECT_TRUE(parseTcp(Bytes(framed.begin() + 12, framed.end())).lawful);
  }
  EXPECT_EQ(bench.counters().event(Event::kChecksums), 4U);
}

TEST_P(SoftwareOffload, PlainAndLargeFramesPassThroughUnchanged) {
  Bench bench(usual());
  bench.start();
  for (const uint32_t payload : {46U, 1500U, 2022U, 2023U, 9000U, 65000U}) {
    ASSERT_NO_FATAL_FAILURE(bench.expectPassed(plainFrame(payload, 1)));
  }
  bench.quiesce();
  bench.expectNoLeak();
}

TEST_P(SoftwareOffload, SegmentationHeaderThatDoesNotFitTheFrameIsDropped) {
  Bench bench(usual());
  bench.start();
  const Bytes good = tcpFrame({.payload = 4000, .gsoSize = 1000});
  const auto with = [&](size_t at, uint8_t value) {
    Bytes bad = good;
    bad[at] = value;
    bench.send(bad);
  };
  with(4, 0), with(1, kGsoTcp4), with(6, 35), with(7, 0xff), with(8, 6), with(0, 0), with(1, kGsoTcp6),
      with(1, kGsoUdpL4);
  with(12 + 14, 0x46), with(12 + 14 + 9, 17), with(12 + 34 + 12, 0x10), with(12 + 34 + 12, 0xf0);
  bench.send(plainFrame(60, 1));
  uint32_t frames = 0;
  ASSERT_TRUE(eventually([&] {
    Chain chain;
    while (bench.tx().pop(chain)) {
      ++frames;
      if (gather(chain) == plainFrame(60, 1)) return true;
    }
    return false;
  }));
  const CounterTotals totals = bench.counters();
  EXPECT_GE(totals.drop(Drop::kTxInvalid), 7U);
  EXPECT_EQ(totals.drop(Drop::kTxUnsupported), 1U);
}

// Puts frames into the ring so that the pump sees them in one burst.
void burst(Bench& bench, const std::vector<Bytes>& frames) {
  for (const Bytes& frame : frames) bench.fill(frame, 1);
  bench.rx().publish();
  bench.rx().notify();
}

class Coalescing : public ::testing::TestWithParam<std::tuple<RingCase, bool, bool, uint32_t>> {};

TEST_P(Coalescing, SegmentsInOrderArriveAsOneFrameOfTheSameBytes) {
  const auto& [ring, ipv6, checksummed, vlanTags] = GetParam();
  Bench bench(software(ring.features(kBare)));
  std::vector<Bytes> frames;
  uint32_t total = 0;
  for (uint32_t i = 0; i < 40; ++i) {
    TcpSpec spec{.ipv6 = ipv6,
                 .vlanTags = vlanTags,
                 .payload = i == 39 ? 700U : 1448U,
                 .seq = 0xffffff00 + 1448 * i,  // Wraps.
                 .ipId = static_cast<uint16_t>(i),
                 .flags = static_cast<uint8_t>(i == 39 ? 0x18 : 0x10),
                 .checksummed = checksummed};
    total += spec.payload;
    frames.push_back(tcpFrame(spec));
  }
  burst(bench, frames);
  bench.start();
  const Bytes merged = bench.receive();
  const VnetHdr header = VnetHdr::read(merged.data(), 12);
  EXPECT_EQ(header.flags, kHdrNeedsCsum);
  EXPECT_EQ(header.gsoType, ipv6 ? kGsoTcp6 : kGsoTcp4);
  EXPECT_EQ(header.gsoSize, 1448);
  const TcpSeen seen = parseTcp(Bytes(merged.begin() + 12, merged.end()), true);
  ASSERT_TRUE(seen.lawful);
  EXPECT_EQ(seen.seq, 0xffffff00);
  EXPECT_EQ(seen.flags, 0x18);
  ASSERT_EQ(seen.payload.size(), total);
  for (uint32_t k = 0; k < total; ++k) ASSERT_EQ(seen.payload[k], payloadByte(0xffffff00 + k));
  bench.quiesce();
  bench.expectNoLeak();
  bench.expectLawful();
  const CounterTotals totals = bench.counters();
  EXPECT_EQ(totals.event(Event::kGroFrames), 1U);
  EXPECT_EQ(totals.event(Event::kGroMerged), 40U);
  EXPECT_EQ(totals.rxFrames, 40U);
}

INSTANTIATE_TEST_SUITE_P(Rings, Coalescing,
                         ::testing::Combine(::testing::ValuesIn(ringCases()), ::testing::Bool(), ::testing::Bool(),
                                            ::testing::Values(0U, 2U)),
                         [](const auto& info) {
                           return std::get<0>(info.param).name() + (std::get<1>(info.param) ? "_ipv6" : "_ipv4") +
                                  (std::get<2>(info.param) ? "_checksummed_" : "_partial_") +
                                  std::to_string(std::get<3>(info.param)) + "_tags";
                         });

TEST_P(SoftwareOffload, BadFrameWithinARunLosesNoBuffer) {
  Bench bench(usual(64));
  const auto segment = [](uint32_t i) { return tcpFrame({.payload = 1000, .seq = 1000 * i, .checksummed = true}); };
  for (uint32_t i = 0; i < 5; ++i) {
    if (i != 3) {
      bench.fill(segment(i), 1);
    } else {
      bench.fill(segment(i), 1, -1, 0, 0);
    }
  }
  bench.rx().publish();
  bench.start();
  EXPECT_TRUE(eventually([&] { return bench.port->counters().rxFrames == 4; }));
  EXPECT_EQ(bench.counters().drop(Drop::kRxTooLong), 1U);
  // A lap of the ring: the device takes every buffer again.
  for (int i = 0; i < 64; ++i) {
    Chain chain;
    ASSERT_TRUE(eventually([&] { return bench.rx().pop(chain); }));
  }
  bench.quiesce();
  bench.expectNoLeak();
  bench.expectLawful();
}

// Else the backend, whose ring is as short as a burst, would wait for all of it.
TEST_P(SoftwareOffload, RunEndsWhereItHoldsHalfOfAShortRing) {
  Bench bench(usual(64));
  std::vector<Bytes> frames;
  for (uint32_t i = 0; i < 60; ++i) frames.push_back(tcpFrame({.payload = 300, .seq = 300 * i, .checksummed = true}));
  burst(bench, frames);
  bench.start();
  uint32_t total = 0;
  for (const uint32_t segments : {32U, 28U}) {
    const Bytes merged = bench.receive();
    ASSERT_FALSE(merged.empty());
    const TcpSeen seen = parseTcp(Bytes(merged.begin() + 12, merged.end()), true);
    ASSERT_TRUE(seen.lawful);
    EXPECT_EQ(seen.seq, total);
    ASSERT_EQ(seen.payload.size(), 300 * segments);
    for (size_t k = 0; k < seen.payload.size(); ++k) {
      ASSERT_EQ(seen.payload[k], payloadByte(total + static_cast<uint32_t>(k)));
    }
    total += 300 * segments;
  }
  bench.quiesce();
  bench.expectNoLeak();
  bench.expectLawful();
}

// What must not be merged, by name; the pod gets both frames as they came.
struct Pairing {
  const char* why;
  TcpSpec first;
  TcpSpec second;
  void (*spoil)(Bytes&) = nullptr;
};

class NotMerged : public ::testing::TestWithParam<Pairing> {};

TEST_P(NotMerged, BothFramesArriveAsTheyCame) {
  const Pairing& p = GetParam();
  Bench bench(software(kBare));
  const Bytes first = tcpFrame(p.first);
  Bytes second = tcpFrame(p.second);
  if (p.spoil != nullptr) p.spoil(second);
  burst(bench, {first, second});
  bench.start();
  for (const Bytes& sent : {first, second}) {
    Bytes expected = sent;
    expected[10] = 1;
    EXPECT_EQ(bench.receive(), expected) << p.why;
  }
  EXPECT_EQ(bench.counters().event(Event::kGroFrames), 0U);
}

const TcpSpec kFirst{.payload = 1000, .seq = 5000, .checksummed = true};
TcpSpec second(void (*change)(TcpSpec&)) {
  TcpSpec spec{.payload = 1000, .seq = 6000, .checksummed = true};
  change(spec);
  return spec;
}

INSTANTIATE_TEST_SUITE_P(
    Software, NotMerged,
    ::testing::Values(Pairing{"gap", kFirst, second([](TcpSpec& s) { s.seq = 6001; })},
                      Pairing{"retransmission", kFirst, second([](TcpSpec& s) { s.seq = 5000; })},
                      Pairing{"other flow", kFirst, second([](TcpSpec& s) { s.sourcePort = 40001; })},
                      Pairing{"other family", kFirst, second([](TcpSpec& s) { s.ipv6 = true; })},
                      Pairing{"other VLAN", kFirst, second([](TcpSpec& s) { s.vlanTags = 1; })},
                      Pairing{"larger than the first", kFirst, second([](TcpSpec& s) { s.payload = 1001; })},
                      Pairing{"FIN", kFirst, second([](TcpSpec& s) { s.flags = 0x11; })},
                      Pairing{"ECN echo", kFirst, second([](TcpSpec& s) { s.flags = 0x50; })},
                      Pairing{"urgent", kFirst, second([](TcpSpec& s) { s.flags = 0x30; })},
                      Pairing{"other options", kFirst, second([](TcpSpec& s) { s.optionBytes = 8; })},
                      Pairing{"no data", kFirst, second([](TcpSpec& s) { s.payload = 0; })},
                      Pairing{"wrong TCP checksum", kFirst, second([](TcpSpec&) {}), [](Bytes& f) { f.back() ^= 1; }},
                      Pairing{"wrong IP checksum", kFirst, second([](TcpSpec&) {}),
                              [](Bytes& f) { f[12 + 14 + 8] ^= 1; }},
                      Pairing{"trailing padding", kFirst, second([](TcpSpec&) {}), [](Bytes& f) { f.push_back(0); }},
                      Pairing{"segmented already", kFirst, second([](TcpSpec&) {}), [](Bytes& f) { f[1] = kGsoTcp4; }},
                      Pairing{"PSH ended the first", second([](TcpSpec& s) { s.seq = 5000, s.flags = 0x18; }),
                              second([](TcpSpec&) {})},
                      Pairing{"short segment ended nothing", kFirst, second([](TcpSpec& s) { s.seq = 7000; })}),
    [](const auto& info) {
      std::string name = info.param.why;
      std::replace(name.begin(), name.end(), ' ', '_');
      return name;
    });

TEST_P(SoftwareOffload, RunIsBoundedByTheSizeOfAFrame) {
  Bench bench(usual());
  std::vector<Bytes> frames;
  for (uint32_t i = 0; i < 60; ++i) frames.push_back(tcpFrame({.payload = 2000, .seq = 2000 * i}));
  burst(bench, frames);
  bench.start();
  uint32_t total = 0;
  while (total < 60 * 2000) {
    const Bytes merged = bench.receive();
    ASSERT_FALSE(merged.empty());
    EXPECT_LE(merged.size(), 65550U);
    const TcpSeen seen = parseTcp(Bytes(merged.begin() + 12, merged.end()), true);
    ASSERT_TRUE(seen.lawful);
    EXPECT_EQ(seen.seq, total);
    total += static_cast<uint32_t>(seen.payload.size());
  }
  EXPECT_EQ(bench.counters().event(Event::kGroFrames), 2U);
}

TEST_P(SoftwareOffload, RunThatACorruptRingCutsShortDoesNotReachAnotherPort) {
  auto made = Pump::create("vu-run", 0);
  ASSERT_TRUE(made.ok());
  BenchOptions options = usual();
  options.sharedPump = made.value();
  {
    Bench victim(options);
    Bench bystander(options);
    bystander.start();
    victim.fill(tcpFrame({.payload = 1000, .seq = 5000, .checksummed = true}), 1);
    victim.rx().forge(5000, 100);
    victim.rx().publish();
    victim.start();
    ASSERT_TRUE(victim.corruption->signal.wait());
    Bytes next = tcpFrame({.payload = 1000, .seq = 6000, .checksummed = true});
    bystander.deliver(next, 1);
    next[10] = 1;
    EXPECT_EQ(bystander.receive(), next);
    EXPECT_TRUE(eventually([&] { return victim.port->counters().drop(Drop::kRxLost) == 1; }));
  }
  options.sharedPump->stop();
}

TEST(Checksum, AgreesWithTheTextbookForEveryLengthAndAlignment) {
  Bytes data(300);
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<uint8_t>(i * 97 + 255);
  for (size_t start = 0; start < 9; ++start) {
    for (size_t length = 0; length + start <= 280; ++length) {
      uint32_t plain = 0;
      for (size_t i = 0; i < length; i += 2) {
        plain += data[start + i] | (i + 1 < length ? uint32_t{data[start + i + 1]} << 8 : 0U);
      }
      while (plain > 0xffff) plain = (plain & 0xffff) + (plain >> 16);
      ASSERT_EQ(checksumFold(checksumAdd(0, data.data() + start, length)), plain);
    }
  }
}

}  // namespace
}  // namespace vu::test
