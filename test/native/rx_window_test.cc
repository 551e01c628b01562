// How many receive buffers are posted, and what becomes of the others.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/stat.h>

#include <chrono>

#include "harness.h"

namespace vu::test {
namespace {

constexpr uint32_t kSize = 1024;

BenchOptions largeRing(const RingCase& ring = {}) {
  BenchOptions options = benchOptions(ring);
  options.session.queueSize = kSize;
  return options;
}

// Bytes of the session's memory that exist.
uint64_t touchedBytes(const Session& session) {
  struct stat status {};
  EXPECT_EQ(::fstat(session.memoryFd(), &status), 0);
  return static_cast<uint64_t>(status.st_blocks) * 512;
}

// One burst that takes `buffers` buffers: small frames published at once.
void burst(Bench& bench, uint32_t buffers) {
  for (uint32_t i = 0; i < buffers; ++i) bench.fill(plainFrame(100, static_cast<uint8_t>(i)), 1);
  bench.rx().publish();
  bench.rx().notify();
  for (uint32_t i = 0; i < buffers; ++i) ASSERT_FALSE(bench.receive().empty());
}

class EveryRxWindow : public ::testing::TestWithParam<RingCase> {};

INSTANTIATE_TEST_SUITE_P(Rings, EveryRxWindow, ::testing::ValuesIn(ringCases(true)), ringCaseName);

TEST_P(EveryRxWindow, FewBuffersArePostedBeforeAnythingCame) {
  Bench bench(largeRing(GetParam()));
  EXPECT_EQ(bench.rx().available(), kRxWindowMin);
  bench.start();
  EXPECT_EQ(bench.rx().available(), kRxWindowMin);
  bench.expectLawful();
}

TEST_P(EveryRxWindow, BurstsThatUseHalfDoubleItUntilEverythingIsPosted) {
  Bench bench(largeRing(GetParam()));
  bench.start();
  for (uint32_t window = kRxWindowMin; window < kSize; window *= 2) {
    burst(bench, window / 2);
    EXPECT_TRUE(eventually([&] { return bench.rx().available() >= window * 2 || bench.rx().available() == kSize; }));
  }
  bench.quiesce();
  bench.expectNoLeak();
  bench.expectLawful();
}

// As many broadcasts come at once where many pods start together.
TEST_P(EveryRxWindow, SmallerBurstsLeaveItAsItIs) {
  Bench bench(largeRing(GetParam()));
  bench.start();
  for (int i = 0; i < 20; ++i) {
    burst(bench, kRxWindowMin / 2 - 1);
    // The ring was seen empty.
    bench.counters();
  }
  EXPECT_EQ(bench.rx().available(), kRxWindowMin);
  EXPECT_LE(touchedBytes(*bench.session), uint64_t{kRxWindowMin} * 4096 + (64 << 10));
}

TEST_P(EveryRxWindow, ATrickleTouchesNoMoreMemoryThanTheWindow) {
  Bench bench(largeRing(GetParam()));
  bench.start();
  for (uint32_t i = 0; i < 3 * kSize; ++i) burst(bench, 1);
  // A buffer is posted again after its frame was written.
  bench.counters();
  EXPECT_EQ(bench.rx().available(), kRxWindowMin);
  EXPECT_LE(touchedBytes(*bench.session), uint64_t{kRxWindowMin} * 4096 + (64 << 10));
  bench.quiesce();
  bench.expectNoLeak();
}

TEST(RxWindow, AQuietRingGivesItsMemoryBack) {
  Bench bench(largeRing());
  bench.start();
  for (uint32_t window = kRxWindowMin; window < kSize; window *= 2) burst(bench, window / 2);
  ASSERT_TRUE(eventually([&] { return bench.rx().available() == kSize; }));
  for (uint32_t i = 0; i < kSize / 64; ++i) burst(bench, 64);
  const uint64_t busy = touchedBytes(*bench.session);
  EXPECT_GE(busy, uint64_t{kSize} * 4096 / 2);
  // Quiet for a while, with a frame now and then: posted buffers come back one by one. Each of the seconds that make it
  // quiet may last longer on a busy machine.
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(90);
  const uint64_t window = uint64_t{kRxWindowMin} * 4096 + (64 << 10);
  while (touchedBytes(*bench.session) > window && std::chrono::steady_clock::now() < end) {
    burst(bench, 4);
    // Without a pause the next frames are there before the ring was seen empty: that is a busy ring.
    ::poll(nullptr, 0, 1);
  }
  EXPECT_LE(touchedBytes(*bench.session), window);
  bench.quiesce();
  bench.expectNoLeak();
  bench.expectLawful();
}

}  // namespace
}  // namespace vu::test
