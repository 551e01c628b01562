// INDIRECT_DESC: a chain of two parts lies in a table and takes one slot of the ring. The model device checks the rules
// of the tables themselves (RingDevice::addTable()).
#include "harness.h"
#include "tcp_frames.h"

namespace vu::test {
namespace {

class Indirect : public ::testing::TestWithParam<RingCase> {
 protected:
  Bench bench{benchOptions(GetParam())};
};

INSTANTIATE_TEST_SUITE_P(Rings, Indirect, ::testing::ValuesIn(ringCases()), ringCaseName);

TEST_P(Indirect, FrameOfTwoPartsTakesOneSlotWhereNegotiatedAndTwoElsewhere) {
  bench.start();
  for (const uint32_t payload : {60U, kTxHeadBytes - 26, kTxHeadBytes - 25, 9000U, 64'000U}) {
    const Bytes frame = plainFrame(payload, static_cast<uint8_t>(payload));
    bench.send(frame);
    Chain chain;
    ASSERT_TRUE(bench.await(chain));
    EXPECT_EQ(gather(chain), frame);
    const uint32_t parts = frame.size() > kTxHeadBytes ? 2 : 1;
    EXPECT_EQ(chain.segments.size(), parts);
    EXPECT_EQ(chain.slots, GetParam().indirect ? 1 : parts);
    bench.tx().push(chain.head, 0);
    bench.tx().publish();
  }
  bench.quiesce();
  bench.expectNoLeak();
  bench.expectLawful();
}

TEST_P(Indirect, RingFullOfLargeFramesLosesNoneAndGoesOn) {
  BenchOptions options = benchOptions(GetParam());
  options.session.queueSize = 64;
  Bench small(std::move(options));
  small.start();
  constexpr uint8_t kFrames = 100;
  uint8_t sent = 0;
  uint8_t seen = 0;
  std::vector<Chain> held;
  while (seen < kFrames) {
    // A ring without tables holds 32, and so do the tails of one with.
    while (sent < kFrames && sent - seen < 32) small.send(plainFrame(5000, sent++));
    Chain chain;
    ASSERT_TRUE(small.await(chain));
    EXPECT_EQ(gather(chain), plainFrame(5000, seen++));
    held.push_back(chain);
    if (held.size() < 32 && seen < kFrames) continue;
    for (const Chain& each : held) small.tx().push(each.head, 0);
    held.clear();
    small.tx().publish();
    small.tx().notify();
  }
  small.quiesce();
  small.expectNoLeak();
  small.expectLawful();
}

TEST_P(Indirect, WhatTheBackendWritesIntoATableIsNeverReadBack) {
  if (!GetParam().indirect) return;
  bench.start();
  const uint64_t bytes = uint64_t{DescTable::kBytes} * bench.session->options().queueSize;
  uint8_t* const tables = bench.session->base() + bench.session->txTableOffset(0);
  for (uint8_t round = 0; round < 50; ++round) {
    const Bytes frame = plainFrame(5000, round);
    bench.send(frame);
    Chain chain;
    ASSERT_TRUE(bench.await(chain));
    EXPECT_EQ(gather(chain), frame);
    std::memset(tables, 0xff, bytes);
    bench.tx().push(chain.head, 0);
    bench.tx().publish();
  }
  bench.quiesce();
  bench.expectNoLeak();
  EXPECT_TRUE(bench.corruption->events.empty());
}

TEST(IndirectTables, LieInTheSharedMemoryBehindTheBuffersAndOnlyWhereNegotiated) {
  for (const uint32_t queueSize : {64U, 1024U, 4096U}) {
    SessionOptions options{2, queueSize, 4096, kUsualFeatures, MemoryKind::kMemfd};
    const auto without = Session::create(options).value();
    options.features |= kFeatureIndirect;
    const auto with = Session::create(options).value();
    const uint64_t tables = alignUp(uint64_t{DescTable::kBytes} * queueSize, kPageBytes);
    EXPECT_EQ(with->memoryBytes(), without->memoryBytes() + 2 * tables);
    EXPECT_EQ(with->txTableOffset(1) + tables, with->memoryBytes());
    EXPECT_EQ(with->txTableOffset(0) + tables, with->rxOffset(1));
  }
}

}  // namespace
}  // namespace vu::test
