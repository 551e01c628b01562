// Queue pairs switched while the port runs (VIRTIO_NET_CTRL_MQ): nothing received is lost, nothing is sent late.
#include <net/if.h>

#include "harness.h"

namespace vu::test {
namespace {

BenchOptions twoPairs(const RingCase& ring) {
  BenchOptions options = benchOptions(ring);
  options.session.pairs = 2;
  options.pumps = 2;
  return options;
}

// One step of a switch, awaited.
template <typename Step>
void run(Bench& bench, Step step, uint32_t pairs) {
  Signal done;
  ASSERT_TRUE(((*bench.port).*step)(pairs, [&] { done.raise(); }).ok());
  ASSERT_TRUE(done.wait());
}

void shrinkToOne(Bench& bench) {
  run(bench, &Port::finishTransmit, 1);
  ASSERT_TRUE(bench.port->detachQueues(1).ok());
  run(bench, &Port::retire, 1);
}

class EverySwitch : public ::testing::TestWithParam<RingCase> {};

INSTANTIATE_TEST_SUITE_P(Rings, EverySwitch, ::testing::ValuesIn(ringCases()), ringCaseName);

TEST_P(EverySwitch, APairSwitchedOffReadsNothingAndTheOthersGoOn) {
  Bench bench(twoPairs(GetParam()));
  bench.start();
  shrinkToOne(bench);
  // A socket cannot be detached as a TAP queue is; what is sent to it shows whether it is read.
  bench.send(plainFrame(100, 1), 1);
  bench.expectPassed(plainFrame(100, 2));
  EXPECT_EQ(bench.tx(1).available(), 0);
  EXPECT_EQ(bench.counters().txFrames, 1U);
}

TEST_P(EverySwitch, WhatWaitedForTransmissionIsSentBeforeTheQueueGoes) {
  Bench bench(twoPairs(GetParam()));
  bench.start();
  for (uint8_t i = 0; i < 40; ++i) bench.send(plainFrame(100, i), 1);
  run(bench, &Port::finishTransmit, 1);
  for (uint8_t i = 0; i < 40; ++i) {
    Chain chain;
    ASSERT_TRUE(bench.await(chain, 1));
    EXPECT_EQ(gather(chain), plainFrame(100, i));
    bench.tx(1).push(chain.head, 0);
  }
  bench.tx(1).publish();
  run(bench, &Port::retire, 1);
  bench.quiesce();
  EXPECT_EQ(bench.counters().drop(Drop::kTxLost), 0U);
  bench.expectNoLeak(1);
  bench.expectLawful();
}

TEST_P(EverySwitch, WhatARingReceivedBeforeItWasDisabledIsDelivered) {
  Bench bench(twoPairs(GetParam()));
  bench.start();
  run(bench, &Port::finishTransmit, 1);
  ASSERT_TRUE(bench.port->detachQueues(1).ok());
  // Published, and no call: only retire() looks.
  for (uint8_t i = 0; i < 20; ++i) bench.fill(plainFrame(100, i), 1, -1, 1);
  bench.rx(1).publish();
  run(bench, &Port::retire, 1);
  for (uint8_t i = 0; i < 20; ++i) EXPECT_EQ(bench.receive(1).size(), 12U + 14U + 100U);
  bench.quiesce();
  bench.expectNoLeak(1);
  bench.expectLawful();
}

TEST_P(EverySwitch, APairComesAndGoesManyTimesAndCarriesTrafficEachTime) {
  Bench bench(twoPairs(GetParam()));
  bench.start();
  for (uint8_t round = 0; round < 20; ++round) {
    shrinkToOne(bench);
    bench.expectPassed(plainFrame(60, round));
    run(bench, &Port::enlist, 2);
    bench.send(plainFrame(70, round), 1);
    Chain chain;
    ASSERT_TRUE(bench.await(chain, 1));
    EXPECT_EQ(gather(chain), plainFrame(70, round));
    bench.tx(1).push(chain.head, 0);
    bench.tx(1).publish();
    bench.deliver(plainFrame(80, round), 1, 1);
    ASSERT_FALSE(bench.receive(1).empty());
  }
  bench.quiesce();
  for (const uint32_t pair : {0U, 1U}) bench.expectNoLeak(pair);
  bench.expectLawful();
}

TEST_P(EverySwitch, TakingTheFirstStepBackLeavesThePairAsItWas) {
  Bench bench(twoPairs(GetParam()));
  bench.start();
  run(bench, &Port::finishTransmit, 1);
  run(bench, &Port::enlist, 2);
  bench.send(plainFrame(70, 3), 1);
  Chain chain;
  ASSERT_TRUE(bench.await(chain, 1));
  EXPECT_EQ(gather(chain), plainFrame(70, 3));
}

TEST_P(EverySwitch, ASessionMayBeginWithAPairThatRests) {
  Bench bench(twoPairs(GetParam()));
  bench.options_.start.activePairs = 1;
  Signal started;
  ASSERT_TRUE(bench.port->start(bench.session, bench.options_.start, [&] { started.raise(); }).ok());
  ASSERT_TRUE(started.wait());
  // VPP takes up a ring when it is kicked.
  EXPECT_EQ(bench.rx(1).drainKicks(), 1U);
  bench.send(plainFrame(70, 4), 1);
  bench.expectPassed(plainFrame(60, 5));
  EXPECT_EQ(bench.tx(1).available(), 0);
  run(bench, &Port::enlist, 2);
  Chain chain;
  ASSERT_TRUE(bench.await(chain, 1));
  EXPECT_EQ(gather(chain), plainFrame(70, 4));
}

TEST_P(EverySwitch, ASessionThatEndsMeanwhileCountsWhatTheBackendStillHeld) {
  Bench bench(twoPairs(GetParam()));
  bench.start();
  for (uint8_t i = 0; i < 3; ++i) bench.send(plainFrame(100, i), 1);
  shrinkToOne(bench);
  bench.quiesce();
  EXPECT_EQ(bench.counters().drop(Drop::kTxLost), 3U);
  bench.newSession();
  bench.start();
  bench.expectPassed(plainFrame(60, 1));
}

TEST(PairSwitch, RefusesNoPairsMoreThanThereAreAndAPortThatDoesNotRun) {
  Bench bench(twoPairs({}));
  for (const uint32_t pairs : {0U, 3U, 1U}) EXPECT_FALSE(bench.port->enlist(pairs, nullptr).ok());
  bench.start();
  for (const uint32_t pairs : {0U, 3U}) {
    EXPECT_EQ(bench.port->finishTransmit(pairs, nullptr).fault().errnum, EINVAL);
    EXPECT_EQ(bench.port->detachQueues(pairs).fault().errnum, EINVAL);
    EXPECT_EQ(bench.port->retire(pairs, nullptr).fault().errnum, EINVAL);
    EXPECT_EQ(bench.port->enlist(pairs, nullptr).fault().errnum, EINVAL);
  }
}

}  // namespace
}  // namespace vu::test
