// What the RX, MAC and VLAN commands mean for a frame, and that a port obeys them.
#include "rx_filter.h"

#include "harness.h"

namespace vu::test {
namespace {

constexpr MacAddress kOwn = {2, 0, 0, 0, 0, 1};
constexpr MacAddress kOther = {2, 0, 0, 0, 0, 2};
constexpr MacAddress kGroup = {0x33, 0x33, 0, 0, 0, 1};
constexpr MacAddress kOtherGroup = {1, 0, 0x5e, 0, 0, 1};
constexpr MacAddress kAll = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

RxFilterRules rules() {
  RxFilterRules made;
  made.promiscuous = false;
  made.mac = kOwn;
  return made;
}

bool passes(const RxFilterRules& given, const MacAddress& to, int vlan = -1) {
  std::array<uint8_t, RxFilter::kLookBytes> frame{};
  std::memcpy(frame.data(), to.data(), to.size());
  if (vlan >= 0) {
    frame[12] = 0x81;
    // With a priority: the id is the lower 12 bits.
    frame[14] = static_cast<uint8_t>(0xe0 | vlan >> 8);
    frame[15] = static_cast<uint8_t>(vlan);
  }
  return RxFilter(given).passes(frame.data());
}

TEST(RxFilter, PassesTheOwnAddressAndBroadcastAndNothingElseByItself) {
  EXPECT_TRUE(passes(rules(), kOwn));
  EXPECT_TRUE(passes(rules(), kAll));
  EXPECT_FALSE(passes(rules(), kOther));
  EXPECT_FALSE(passes(rules(), kGroup));
}

TEST(RxFilter, PromiscuousPassesEverythingWhateverElseIsSet) {
  RxFilterRules given = rules();
  given.noUnicast = given.noMulticast = given.noBroadcast = given.filterVlans = true;
  for (const MacAddress& to : {kOwn, kOther, kGroup, kAll}) EXPECT_FALSE(passes(given, to));
  given.promiscuous = true;
  for (const MacAddress& to : {kOwn, kOther, kGroup, kAll}) EXPECT_TRUE(passes(given, to, 7));
}

TEST(RxFilter, TablesAddAddresses) {
  RxFilterRules given = rules();
  given.unicast = {{6, 6, 6, 6, 6, 6}, kOther, {2, 2, 2, 2, 2, 2}};
  given.multicast = {kOtherGroup, kGroup};
  for (const MacAddress& to : {kOwn, kOther, kGroup, kOtherGroup, kAll}) EXPECT_TRUE(passes(given, to));
  EXPECT_FALSE(passes(given, {4, 4, 4, 4, 4, 4}));
  EXPECT_FALSE(passes(given, {3, 0, 0, 0, 0, 0}));
}

TEST(RxFilter, EachModeHasItsEffectAndNoOther) {
  RxFilterRules given = rules();
  given.allMulticast = true;
  EXPECT_TRUE(passes(given, kGroup));
  EXPECT_FALSE(passes(given, kOther));
  given.noMulticast = true;
  EXPECT_FALSE(passes(given, kGroup));
  EXPECT_TRUE(passes(given, kAll));
  given = rules();
  given.allUnicast = true;
  EXPECT_TRUE(passes(given, kOther));
  EXPECT_FALSE(passes(given, kGroup));
  given.noUnicast = true;
  EXPECT_FALSE(passes(given, kOwn));
  given = rules();
  given.noBroadcast = true;
  EXPECT_FALSE(passes(given, kAll));
  EXPECT_TRUE(passes(given, kOwn));
}

TEST(RxFilter, VlansFilterTaggedFramesOnly) {
  RxFilterRules given = rules();
  EXPECT_TRUE(passes(given, kOwn, 100));
  given.filterVlans = true;
  given.vlans.set(100);
  given.vlans.set(0xfff);
  EXPECT_TRUE(passes(given, kOwn));
  EXPECT_TRUE(passes(given, kOwn, 100));
  EXPECT_TRUE(passes(given, kOwn, 0xfff));
  EXPECT_FALSE(passes(given, kOwn, 101));
  EXPECT_FALSE(passes(given, kOther, 100));
}

Bytes frameTo(const MacAddress& to, uint32_t payload = 100) {
  Bytes frame = plainFrame(payload, 7);
  std::memcpy(frame.data() + 12, to.data(), to.size());
  return frame;
}

void setFilter(Bench& bench, const RxFilterRules& given) {
  Signal set;
  bench.port->setRxFilter(std::make_shared<RxFilter>(given), [&] { set.raise(); });
  ASSERT_TRUE(set.wait());
}

class EveryFilteredRing : public ::testing::TestWithParam<RingCase> {};

INSTANTIATE_TEST_SUITE_P(Rings, EveryFilteredRing, ::testing::ValuesIn(ringCases()), ringCaseName);

// More than the ring has: buffers of filtered frames come back.
TEST_P(EveryFilteredRing, FramesForOthersDoNotReachThePodAndTheirBuffersComeBack) {
  Bench bench(benchOptions(GetParam()));
  bench.start();
  setFilter(bench, rules());
  for (int i = 0; i < 600; ++i) bench.deliver(frameTo(kOther), 1);
  bench.deliver(frameTo(kOwn), 1);
  Bytes got = bench.receive();
  ASSERT_GE(got.size(), 18U);
  EXPECT_EQ(std::memcmp(got.data() + 12, kOwn.data(), kOwn.size()), 0);
  EXPECT_FALSE(bench.podHasFrame());
  const CounterTotals counters = bench.counters();
  EXPECT_EQ(counters.event(Event::kRxFiltered), 600U);
  EXPECT_EQ(counters.rxFrames, 1U);
  bench.quiesce();
  bench.expectNoLeak();
  bench.expectLawful();
}

TEST_P(EveryFilteredRing, OutlivesTheSessionAndEndsWithTheCommand) {
  Bench bench(benchOptions(GetParam()));
  setFilter(bench, rules());
  bench.start();
  bench.quiesce();
  bench.newSession();
  bench.start();
  bench.deliver(frameTo(kOther), 1);
  EXPECT_TRUE(eventually([&] { return bench.port->counters().event(Event::kRxFiltered) == 1; }));
  Signal cleared;
  bench.port->setRxFilter(nullptr, [&] { cleared.raise(); });
  ASSERT_TRUE(cleared.wait());
  bench.deliver(frameTo(kOther), 1);
  EXPECT_FALSE(bench.receive().empty());
}

TEST(RxFilter, IsNotDeceivedByAFrameThatIsCutWithinItsAddress) {
  Bench bench;
  bench.start();
  setFilter(bench, rules());
  for (const MacAddress& to : {kOther, kOwn}) {
    Bytes frame = frameTo(to, 2);
    const uint16_t buffers = static_cast<uint16_t>(frame.size());
    ASSERT_LE(buffers, 64);
    // fill() spreads evenly: one byte behind the header in each buffer would begin in the second one.
    std::memcpy(frame.data() + 10, &buffers, 2);
    for (uint32_t i = 0; i < buffers; ++i) {
      Chain chain;
      ASSERT_TRUE(eventually([&] { return bench.rx().pop(chain); }));
      // The first must hold the whole header; what is left out of the last ones goes into the last.
      const size_t offset = i == 0 ? 0 : 11 + i;
      const size_t part = i == 0 ? 12 : offset < frame.size() ? 1 : 0;
      std::memcpy(chain.segments[0].host, frame.data() + std::min(offset, frame.size()), part);
      bench.rx().push(chain.head, static_cast<uint32_t>(part));
    }
    bench.rx().publish();
    bench.rx().notify();
  }
  const Bytes got = bench.receive();
  ASSERT_GE(got.size(), 18U);
  EXPECT_EQ(std::memcmp(got.data() + 12, kOwn.data(), kOwn.size()), 0);
  EXPECT_EQ(bench.counters().event(Event::kRxFiltered), 1U);
}

}  // namespace
}  // namespace vu::test
