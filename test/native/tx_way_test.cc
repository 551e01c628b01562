// Which way large frames take, by what they took.
#include "tx_way.h"

#include <gtest/gtest.h>

namespace vu {
namespace {

constexpr uint32_t kBytes = 64 * 1024;

struct Machine {
  uint64_t straightNs;
  uint64_t streamedNs;
};

// One large frame; how it went.
bool pass(TxWay& way, const Machine& machine, uint32_t bytes = kBytes) {
  const bool straight = way.straight();
  way.passed(bytes, (straight ? machine.straightNs : machine.streamedNs) * bytes / kBytes);
  return straight;
}

void tryBoth(TxWay& way, const Machine& machine) {
  ASSERT_TRUE(way.trying());
  for (uint32_t i = 0; i < 2 * TxWay::kTrialFrames; ++i) pass(way, machine);
  ASSERT_FALSE(way.trying());
}

void untilNextTrial(TxWay& way, const Machine& machine) {
  for (uint32_t i = 0; i < TxWay::kPeriodFrames; ++i) pass(way, machine);
}

TEST(TxWay, TriesBothWaysInTurnAndTakesTheCheaper) {
  TxWay way;
  for (uint32_t i = 0; i < 2 * TxWay::kTrialFrames; ++i) EXPECT_EQ(pass(way, {5'000, 10'000}), i % 2 == 0) << i;
  EXPECT_FALSE(way.trying());
  EXPECT_TRUE(way.straight());

  TxWay other;
  tryBoth(other, {12'000, 7'000});
  EXPECT_FALSE(other.straight());
}

TEST(TxWay, TriesAgainAndFollowsTheMachine) {
  TxWay way;
  tryBoth(way, {5'000, 10'000});
  untilNextTrial(way, {40'000, 10'000});
  tryBoth(way, {40'000, 10'000});
  EXPECT_FALSE(way.straight());
  untilNextTrial(way, {5'000, 10'000});
  tryBoth(way, {5'000, 10'000});
  EXPECT_TRUE(way.straight());
}

TEST(TxWay, ADifferenceOfLessThanAnEighthChangesNothing) {
  TxWay way;
  tryBoth(way, {9'000, 10'000});
  EXPECT_FALSE(way.straight());
  untilNextTrial(way, {});
  tryBoth(way, {5'000, 10'000});
  EXPECT_TRUE(way.straight());
  untilNextTrial(way, {});
  tryBoth(way, {10'000, 9'000});
  EXPECT_TRUE(way.straight());
}

TEST(TxWay, FramesThatWereInterruptedDecideNothing) {
  TxWay way;
  ASSERT_TRUE(way.trying());
  for (uint32_t i = 0; i < 2 * TxWay::kTrialFrames; ++i) {
    pass(way, i / 2 % 3 == 0 ? Machine{4'000'000, 10'000} : Machine{5'000, 10'000});
  }
  EXPECT_TRUE(way.straight());
}

TEST(TxWay, SmallFramesNeitherEndATrialNorBringOneNearer) {
  TxWay way;
  for (int i = 0; i < 100; ++i) way.passed(TxWay::kLargeBytes - 1, 0);
  tryBoth(way, {5'000, 10'000});
  for (uint32_t i = 0; i < 2 * TxWay::kPeriodFrames; ++i) way.passed(64, 0);
  EXPECT_FALSE(way.trying());
  untilNextTrial(way, {});
  EXPECT_TRUE(way.trying());
}

TEST(TxWay, FramesOfUnlikeLengthsCompareByWhatAByteTakes) {
  TxWay way;
  for (uint32_t i = 0; i < 2 * TxWay::kTrialFrames; ++i) pass(way, {8'000, 10'000}, i % 2 == 0 ? kBytes : kBytes / 4);
  EXPECT_TRUE(way.straight());
}

}  // namespace
}  // namespace vu
