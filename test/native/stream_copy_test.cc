// Frames on their way past the caches, and straight to the switch's memory: whole, and with nothing of another pod's
// behind their end.
#include <algorithm>

#include "harness.h"

namespace vu::test {
namespace {

TEST(StreamCopy, CopiesEveryByteAndEndsWithTheLastUnit) {
  alignas(kStreamUnit) std::array<uint8_t, 4 * kStreamUnit> from;
  alignas(kStreamUnit) std::array<uint8_t, 4 * kStreamUnit> to;
  for (size_t i = 0; i < from.size(); ++i) from[i] = static_cast<uint8_t>(i + 1);
  for (size_t bytes = 0; bytes <= from.size(); ++bytes) {
    to.fill(0);
    streamCopy(to.data(), from.data(), bytes);
    streamFence();
    const size_t end = (bytes + 63) / 64 * 64;
    ASSERT_TRUE(std::equal(to.begin(), to.begin() + end, from.begin())) << bytes;
    ASSERT_TRUE(std::all_of(to.begin() + end, to.end(), [](uint8_t byte) { return byte == 0; })) << bytes;
  }
}

class Streamed : public ::testing::TestWithParam<RingCase> {};
INSTANTIATE_TEST_SUITE_P(Rings, Streamed, ::testing::ValuesIn(ringCases()), ringCaseName);

// What a backend without a checksum offload gets is never read straight into its memory.
BenchOptions streamed(const RingCase& ring) {
  BenchOptions options = benchOptions(ring, kUsualFeatures & ~kFeatureCsum);
  options.start.softwareChecksum = true;
  return options;
}

constexpr uint32_t kHeaders = 12 + 14;

// vnet header and Ethernet header with `value` in all that is of the pod.
Bytes filled(size_t bytes, uint8_t value) {
  Bytes frame(bytes, value);
  std::fill_n(frame.begin(), 12, 0);
  return frame;
}

// 512: the shortest that goes past the caches; 2048: the longest without a tail; 16384: the shortest whose way is
// tried.
void expectWholeAround(Bench& bench) {
  for (const uint32_t around : {512U, 576U, kTxHeadBytes, kTxHeadBytes + 64, 9000U, TxWay::kLargeBytes}) {
    for (uint32_t bytes = around - 3; bytes <= around + 3; ++bytes) {
      ASSERT_NO_FATAL_FAILURE(bench.expectPassed(plainFrame(bytes - kHeaders, static_cast<uint8_t>(bytes)))) << bytes;
    }
  }
}

TEST_P(Streamed, FramesOfEveryLengthAroundThePartsArriveWhole) {
  Bench bench(streamed(GetParam()));
  bench.start();
  expectWholeAround(bench);
}

// Large frames by both ways in turn until the pump has decided, and by the one it took afterwards.
TEST_P(Streamed, FramesArriveWholeWhicheverWayThePumpTries) {
  Bench bench(benchOptions(GetParam()));
  bench.start();
  for (uint32_t large = 0; large < 3 * TxWay::kTrialFrames; ++large) {
    if (large % 6 == 0) {
      ASSERT_NO_FATAL_FAILURE(expectWholeAround(bench));
    }
    ASSERT_NO_FATAL_FAILURE(bench.expectPassed(plainFrame(40'000 + large, static_cast<uint8_t>(large)))) << large;
  }
}

// The private copy is of the pump, and its last frame may have been another pod's.
TEST_P(Streamed, BackendSeesNothingOfAnotherFrameBehindTheEndOfOne) {
  Bench bench(streamed(GetParam()));
  bench.start();
  for (const size_t bytes : {600U, 1400U, 2040U, 2100U, 5001U}) {
    ASSERT_NO_FATAL_FAILURE(bench.expectPassed(filled(9000, 0xa5)));
    bench.send(filled(bytes, 0x5a));
    Chain chain;
    ASSERT_TRUE(bench.await(chain));
    for (const Segment& segment : chain.segments) {
      const uint8_t* const unit = segment.host + segment.len / kStreamUnit * kStreamUnit;
      EXPECT_EQ(std::count(unit, unit + kStreamUnit, 0xa5), 0) << bytes;
    }
    bench.tx().push(chain.head, 0);
    bench.tx().publish();
  }
}

}  // namespace
}  // namespace vu::test
