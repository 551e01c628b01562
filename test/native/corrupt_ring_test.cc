// A backend that lies in the used ring breaks its own port, and nothing else (faults F31–F37, F44).
#include "harness.h"

namespace vu::test {
namespace {

// A victim and a bystander on one pump.
class CorruptRing : public ::testing::TestWithParam<RingCase> {
 protected:
  CorruptRing() : options_(benchOptions(GetParam())) {
    auto made = Pump::create("vu-corrupt", 0);
    EXPECT_TRUE(made.ok());
    options_.sharedPump = std::move(made).value();
    options_.session.queueSize = 64;
    victim = std::make_unique<Bench>(options_);
    bystander = std::make_unique<Bench>(options_);
    victim->start();
    bystander->start();
  }
  ~CorruptRing() override {
    victim.reset();
    bystander.reset();
    options_.sharedPump->stop();
  }

  void call(uint32_t ring) {
    const uint64_t one = 1;
    ASSERT_EQ(::write(victim->session->callFd(ring), &one, sizeof one), 8);
  }
  void expectBroken(const std::string& reason) {
    ASSERT_TRUE(victim->corruption->signal.wait()) << "no ring-corrupt event";
    {
      const std::lock_guard lock(victim->corruption->mutex);
      ASSERT_EQ(victim->corruption->events.size(), 1U);
      EXPECT_EQ(victim->corruption->events[0].first, PortEventKind::kRingCorrupt);
      EXPECT_EQ(victim->corruption->events[0].second, reason);
    }
    // The port lets the shared memory alone by itself …
    const uint64_t rings = victim->session->rxOffset(0);
    const Bytes before(victim->session->base(), victim->session->base() + rings);
    victim->send(plainFrame(100, 1));
    call(0);
    call(1);
    // … while its neighbour on the same pump goes on …
    for (uint8_t i = 0; i < 20; ++i) {
      const Bytes frame = plainFrame(100, i);
      ASSERT_NO_FATAL_FAILURE(bystander->expectPassed(frame));
      bystander->deliver(frame, 1);
      EXPECT_EQ(bystander->receive().size(), frame.size());
    }
    EXPECT_EQ(Bytes(victim->session->base(), victim->session->base() + rings), before);
    // … and it runs again on a new session, which carries what the TAP kept.
    victim->quiesce();
    victim->newSession();
    victim->start();
    Chain chain;
    do {
      ASSERT_TRUE(victim->await(chain)) << GetParam().name();
    } while (gather(chain) != plainFrame(100, 1));
    EXPECT_EQ(victim->corruption->signal.count(), 1);
  }
  Chain sendOne() {
    victim->send(plainFrame(60, 1));
    Chain chain;
    EXPECT_TRUE(victim->await(chain));
    return chain;
  }

  BenchOptions options_;
  std::unique_ptr<Bench> victim;
  std::unique_ptr<Bench> bystander;
};

class CorruptSplitRing : public CorruptRing {
 protected:
  void forgeIndex(uint32_t ring, uint16_t value) {
    dynamic_cast<SplitDevice&>(*victim->devices[ring]).forgeIndex(value);
    call(ring);
  }
};
class CorruptPackedRing : public CorruptRing {
 protected:
  void forgeFlags(uint32_t ring, bool avail, bool used) {
    dynamic_cast<PackedDevice&>(*victim->devices[ring]).forgeFlags(avail, used);
    call(ring);
  }
};
class CorruptMergeable : public CorruptRing {};

std::vector<RingCase> casesOf(bool packed) {
  std::vector<RingCase> cases = ringCases();
  std::erase_if(cases, [packed](const RingCase& ring) { return ring.packed != packed; });
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Rings, CorruptRing, ::testing::ValuesIn(ringCases()), ringCaseName);
INSTANTIATE_TEST_SUITE_P(Rings, CorruptSplitRing, ::testing::ValuesIn(casesOf(false)), ringCaseName);
INSTANTIATE_TEST_SUITE_P(Rings, CorruptPackedRing, ::testing::ValuesIn(casesOf(true)), ringCaseName);
INSTANTIATE_TEST_SUITE_P(Rings, CorruptMergeable, ::testing::ValuesIn(ringCases(true)), ringCaseName);

TEST_P(CorruptSplitRing, S55_F31_ReceiveIndexJumpsBeyondWhatIsPosted) {
  forgeIndex(0, 65);
  expectBroken("used index moved by more than what is outstanding");
}

TEST_P(CorruptSplitRing, S55_F31_ReceiveIndexMovesBackwards) {
  victim->deliver(plainFrame(60, 1), 1);
  ASSERT_FALSE(victim->receive().empty());
  forgeIndex(0, 0);
  expectBroken("used index moved by more than what is outstanding");
}

TEST_P(CorruptSplitRing, S55_F31_TransmitIndexJumpsBeyondWhatWasSent) {
  sendOne();
  forgeIndex(1, 2);
  victim->send(plainFrame(60, 2));
  expectBroken("used index moved by more than what is outstanding");
}

TEST_P(CorruptSplitRing, S55_F32_ReceiveIdHasHighBitsSet) {
  victim->rx().forge(0x10000, 100);
  victim->rx().publish();
  call(0);
  expectBroken("used id is not a descriptor of the ring");
}

TEST_P(CorruptPackedRing, S55_F35_ReceiveFlagsAreThoseOfNoLap) {
  forgeFlags(0, false, true);
  expectBroken("used flags do not fit the wrap counter");
}

TEST_P(CorruptPackedRing, S55_F35_ReceiveFlagsAreUsedOnTheLapBefore) {
  forgeFlags(0, false, false);
  expectBroken("used flags do not fit the wrap counter");
}

TEST_P(CorruptPackedRing, S55_F35_TransmitFlagsAreThoseOfTheNextLap) {
  sendOne();
  forgeFlags(1, false, true);
  victim->send(plainFrame(60, 2));
  expectBroken("used flags do not fit the wrap counter");
}

TEST_P(CorruptPackedRing, S55_F35_TransmitIsUsedWhileNothingIsOutstanding) {
  forgeFlags(1, true, true);
  victim->send(plainFrame(60, 2));
  expectBroken("used descriptor while nothing is outstanding");
}

TEST_P(CorruptPackedRing, S55_F36_LapOfGarbageIsFoundOut) {
  // A whole lap passes before the lie.
  for (uint8_t i = 0; i < 70; ++i) {
    victim->deliver(plainFrame(60, i), 1);
    ASSERT_EQ(victim->receive().size(), 86U);
  }
  victim->rx().forge(0xffff, 100);
  victim->rx().publish();
  call(0);
  expectBroken("used id is not a descriptor of the ring");
}

TEST_P(CorruptRing, S55_F32_F36_ReceiveIdIsNotADescriptor) {
  victim->rx().forge(64, 100);
  victim->rx().publish();
  call(0);
  expectBroken("used id is not a descriptor of the ring");
}

TEST_P(CorruptMergeable, S55_F32_F36_ReceiveIdIsRepeatedWithinOneFrame) {
  Chain chain;
  ASSERT_TRUE(victim->rx().pop(chain));
  const uint16_t two = 2;
  std::memset(chain.segments[0].host, 0, 12);
  std::memcpy(chain.segments[0].host + 10, &two, 2);
  victim->rx().forge(chain.head, 4096);
  victim->rx().forge(chain.head, 100);
  victim->rx().publish();
  call(0);
  expectBroken("used id is not outstanding");
}

TEST_P(CorruptRing, S55_F32_F36_TransmitIdWasNeverSent) {
  sendOne();
  victim->tx().forge(63, 0);
  victim->tx().publish();
  victim->send(plainFrame(60, 2));
  expectBroken("used id is not outstanding");
}

TEST_P(CorruptRing, S55_F32_F36_TransmitIdIsTheSecondDescriptorOfAChain) {
  victim->send(plainFrame(5000, 1));
  Chain chain;
  ASSERT_TRUE(victim->await(chain));
  ASSERT_EQ(chain.segments.size(), 2U);
  const uint16_t second = victim->session->state(1).next[chain.head];
  victim->tx().forge(second, 0);
  victim->tx().publish();
  victim->send(plainFrame(60, 2));
  expectBroken("used id is not outstanding");
}

TEST_P(CorruptMergeable, S56_F34_NumBuffersIsZero) {
  victim->fill(plainFrame(60, 1), 1, 0);
  victim->rx().publish();
  victim->rx().notify();
  expectBroken("num_buffers is 0");
}

TEST_P(CorruptMergeable, S56_F34_NumBuffersIsMoreThanWasEverPosted) {
  victim->fill(plainFrame(60, 1), 1, 65);
  victim->rx().publish();
  victim->rx().notify();
  expectBroken("num_buffers exceeds the posted buffers");
}

TEST_P(CorruptRing, S55_F33_ImpossibleLengthsAtARateBreakTheRing) {
  uint32_t dropped = 0;
  for (; dropped < 16; ++dropped) {
    Chain chain;
    ASSERT_TRUE(victim->rx().pop(chain));
    std::memset(chain.segments[0].host, 0, 12);
    chain.segments[0].host[10] = 1;
    victim->rx().push(chain.head, dropped % 2 == 0 ? 4097 : 11);
    victim->rx().publish();
    victim->rx().notify();
  }
  ASSERT_TRUE(eventually([&] {
    const CounterTotals totals = victim->port->counters();
    return totals.drop(Drop::kRxTooLong) == 8 && totals.drop(Drop::kRxShort) == 8;
  }));
  EXPECT_EQ(victim->corruption->signal.count(), 0);
  Chain chain;
  ASSERT_TRUE(victim->rx().pop(chain));
  victim->rx().push(chain.head, 0xffffffff);
  std::memset(chain.segments[0].host, 0, 12);
  chain.segments[0].host[10] = 1;
  victim->rx().publish();
  victim->rx().notify();
  expectBroken("used lengths keep being impossible");
}

TEST_P(CorruptMergeable, S55_S56_F33_SingleImpossibleLengthsAreDroppedAndTheirBuffersComeBack) {
  // The second of three buffers claims more than was posted.
  victim->fill(plainFrame(9000, 1), 3, -1, 0, 1);
  victim->rx().publish();
  victim->rx().notify();
  // More buffers than a frame may have.
  victim->fill(plainFrame(200 * 30, 2), 30);
  victim->rx().publish();
  victim->rx().notify();
  EXPECT_EQ(victim->receive().size(), 6026U);
  // Longer than any frame: 17 full buffers.
  victim->fill(Bytes(17 * 4096, 0), 17);
  victim->rx().publish();
  victim->rx().notify();
  const Bytes good = plainFrame(60, 3);
  victim->deliver(good, 1);
  EXPECT_EQ(victim->receive().size(), good.size());
  EXPECT_EQ(victim->counters().drop(Drop::kRxTooLong), 2U);
  victim->quiesce();
  victim->expectNoLeak();
  victim->expectLawful();
  EXPECT_EQ(victim->corruption->signal.count(), 0);
}

TEST_P(CorruptSplitRing, F37_RewrittenDescriptorsAndAvailRingAreNeverReadBack) {
  const Vring rx = Vring::over(victim->session->base(), victim->session->layout(0), 64);
  for (uint32_t i = 1; i < 64; ++i) rx.desc[i] = VringDesc{0xdeadbeef, 0xffffffff, 0xffff, 0xffff};
  const Bytes frame = plainFrame(60, 1);
  victim->deliver(frame, 1);
  EXPECT_EQ(victim->receive().size(), frame.size());
  const Chain chain = sendOne();
  const Vring tx = Vring::over(victim->session->base(), victim->session->layout(1), 64);
  for (uint32_t i = 0; i < 64; ++i) {
    tx.desc[i] = VringDesc{0, 0xffffffff, 0xffff, 0xffff};
    tx.availRing[i] = 0xffff;
  }
  victim->tx().push(chain.head, 0);
  victim->tx().publish();
  sendOne();
  victim->quiesce();
  victim->expectNoLeak();
  EXPECT_EQ(victim->corruption->signal.count(), 0);
}

TEST_P(CorruptPackedRing, F37_RewrittenDescriptorsAreNeverReadBack) {
  const PackedRing rx = PackedRing::over(victim->session->base(), victim->session->layout(0), 64);
  const PackedRing tx = PackedRing::over(victim->session->base(), victim->session->layout(1), 64);
  // All but the flags, which say whose a slot is: the books know what lies where.
  const auto rewrite = [](PackedDesc& desc) {
    desc.addr = 0xdeadbeef;
    desc.len = 0xffffffff;
    desc.id = 0xffff;
  };
  const Bytes frame = plainFrame(60, 1);
  for (uint32_t lap = 0; lap < 3; ++lap) {
    std::vector<Chain> in(64);
    std::vector<Chain> out(5);
    for (Chain& chain : in) ASSERT_TRUE(eventually([&] { return victim->rx().pop(chain); }));
    for (Chain& chain : out) chain = sendOne();
    for (uint32_t i = 0; i < 64; ++i) rewrite(rx.desc[i]);
    for (uint32_t i = 0; i < 5; ++i) rewrite(tx.desc[lap * 5 + i]);
    for (const Chain& chain : in) {
      std::memcpy(chain.segments[0].host, frame.data(), frame.size());
      chain.segments[0].host[10] = 1;
      victim->rx().push(chain.head, static_cast<uint32_t>(frame.size()));
    }
    victim->rx().publish();
    victim->rx().notify();
    for (int i = 0; i < 64; ++i) ASSERT_EQ(victim->receive().size(), frame.size());
    for (const Chain& chain : out) victim->tx().push(chain.head, 0);
    victim->tx().publish();
  }
  victim->quiesce();
  victim->expectNoLeak();
  victim->expectLawful();
  EXPECT_EQ(victim->corruption->signal.count(), 0);
}

TEST(CorruptRingAcrossPumps, OnePairsCorruptionStopsEveryPairOfThePort) {
  BenchOptions options;
  options.session.pairs = 2;
  options.pumps = 2;
  Bench bench(options);
  bench.start();
  dynamic_cast<SplitDevice&>(bench.rx(0)).forgeIndex(10'000);
  const uint64_t one = 1;
  ASSERT_EQ(::write(bench.session->callFd(0), &one, sizeof one), 8);
  ASSERT_TRUE(bench.corruption->signal.wait());
  bench.send(plainFrame(60, 1), 1);
  bench.quiesce();
  EXPECT_EQ(bench.tx(1).available(), 0);
  EXPECT_EQ(bench.corruption->signal.count(), 1);
}

}  // namespace
}  // namespace vu::test
