// Receive buffers of another size while the port runs: what was posted stays valid, what is posted is new.
#include "harness.h"

namespace vu::test {
namespace {

class EveryGrowingRing : public ::testing::TestWithParam<RingCase> {};

INSTANTIATE_TEST_SUITE_P(Rings, EveryGrowingRing, ::testing::ValuesIn(ringCases()), ringCaseName);

void grow(Bench& bench, uint32_t bytes) {
  ASSERT_TRUE(bench.session->addReceiveBuffers(bytes).ok());
  Signal used;
  ASSERT_TRUE(bench.port->useReceiveBuffers([&] { used.raise(); }).ok());
  ASSERT_TRUE(used.wait());
}

TEST_P(EveryGrowingRing, BuffersOfTheOldSizeAreUsedUpAndEveryNewOneHoldsMore) {
  Bench bench(benchOptions(GetParam()));
  bench.start();
  for (uint8_t i = 0; i < 10; ++i) {
    bench.deliver(plainFrame(1000, i), 1);
    ASSERT_EQ(bench.receive().size(), 1026U);
  }
  grow(bench, 12288);
  // As many as are posted have the old size at most; each comes back with the new one.
  for (uint32_t i = 0; i < kRxWindowMin; ++i) {
    bench.deliver(plainFrame(1000, static_cast<uint8_t>(i)), 1);
    const Bytes got = bench.receive();
    ASSERT_EQ(got.size(), 1026U);
    // num_buffers apart, which the device wrote.
    const Bytes sent = plainFrame(1000, static_cast<uint8_t>(i));
    EXPECT_TRUE(std::equal(got.begin() + 12, got.end(), sent.begin() + 12));
  }
  Chain chain;
  ASSERT_TRUE(eventually([&] { return bench.rx().pop(chain); }));
  EXPECT_EQ(chain.bytes(), 12288U);
  Bytes whole = plainFrame(9000, 2);
  whole[10] = 1;
  whole[11] = 0;
  std::memcpy(chain.segments[0].host, whole.data(), whole.size());
  bench.rx().push(chain.head, static_cast<uint32_t>(whole.size()));
  bench.rx().publish();
  bench.rx().notify();
  EXPECT_EQ(bench.receive().size(), whole.size());
  const Bytes jumbo = plainFrame(9000, 3);
  bench.deliver(jumbo, 1);
  EXPECT_EQ(bench.receive().size(), jumbo.size());
  bench.quiesce();
  bench.expectNoLeak();
  bench.expectLawful();
}

TEST(ReceiveBuffers, ThatNobodyUsesAreTakenBackAnyNumberOfTimes) {
  Bench bench;
  bench.start();
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(bench.session->addReceiveBuffers(12288).ok()) << i;
    ASSERT_TRUE(bench.session->dropReceiveBuffers().ok()) << i;
  }
  EXPECT_EQ(bench.session->dropReceiveBuffers().fault().errnum, EBUSY);
  grow(bench, 12288);
  EXPECT_EQ(bench.session->dropReceiveBuffers().fault().errnum, EBUSY);
  EXPECT_EQ(bench.session->regions().size(), 2U);
  bench.deliver(plainFrame(1000, 1), 1);
  EXPECT_EQ(bench.receive().size(), 1026U);
}

class EveryMergingRing : public ::testing::TestWithParam<RingCase> {};

INSTANTIATE_TEST_SUITE_P(Rings, EveryMergingRing, ::testing::ValuesIn(ringCases(true)), ringCaseName);

TEST_P(EveryMergingRing, AFrameMayBeginInAnOldBufferAndEndInANewOne) {
  Bench bench(benchOptions(GetParam()));
  bench.start();
  grow(bench, 8192);
  const uint32_t posted = bench.rx().available();
  for (uint32_t i = 0; i + 2 < posted; ++i) {
    bench.deliver(plainFrame(60, 1), 1);
    ASSERT_FALSE(bench.receive().empty());
  }
  const Bytes frame = plainFrame(9000, 9);
  bench.deliver(frame, 4);
  const Bytes got = bench.receive();
  ASSERT_EQ(got.size(), frame.size());
  EXPECT_TRUE(std::equal(got.begin() + 12, got.end(), frame.begin() + 12));
  bench.quiesce();
  bench.expectNoLeak();
  bench.expectLawful();
}

TEST_P(EveryGrowingRing, TheWindowGrowsIntoTheNewBuffers) {
  Bench bench(benchOptions(GetParam()));
  bench.start();
  grow(bench, 8192);
  for (uint32_t round = 0; round < 8; ++round) {
    for (uint32_t i = 0; i < 60; ++i) bench.fill(plainFrame(100, static_cast<uint8_t>(i)), 1);
    bench.rx().publish();
    bench.rx().notify();
    for (uint32_t i = 0; i < 60; ++i) ASSERT_FALSE(bench.receive().empty());
  }
  EXPECT_TRUE(eventually([&] { return bench.rx().available() > kRxWindowMin; }));
  bench.quiesce();
  bench.expectNoLeak();
  bench.expectLawful();
}

TEST(ReceiveBuffers, AsManyRegionsAsATableHasAndNoSizeThatNoSessionHas) {
  Bench bench;
  for (const uint32_t bytes : {0U, 2047U, 69633U}) {
    EXPECT_EQ(bench.session->addReceiveBuffers(bytes).fault().errnum, EINVAL);
  }
  for (size_t i = 1; i < Session::kMaxRegions; ++i) EXPECT_TRUE(bench.session->addReceiveBuffers(4096).ok());
  EXPECT_EQ(bench.session->addReceiveBuffers(4096).fault().errnum, ENOSPC);
  uint64_t end = 0;
  for (const SharedRegion& region : bench.session->regions()) {
    EXPECT_GT(region.label, end);
    EXPECT_EQ(region.label % 4096, 0U);
    end = region.label + region.mapping.size();
  }
  EXPECT_FALSE(bench.port->useReceiveBuffers(nullptr).ok());
}

TEST(ReceiveBuffers, ANewSessionBeginsWithItsOwnSize) {
  Bench bench;
  bench.start();
  grow(bench, 8192);
  bench.quiesce();
  bench.newSession();
  bench.start();
  Chain chain;
  ASSERT_TRUE(bench.rx().pop(chain));
  EXPECT_EQ(chain.bytes(), 4096U);
  bench.rx().push(chain.head, 0);
}

}  // namespace
}  // namespace vu::test
