// A port between a pod's socket and model devices: traffic, hold, discard, quiesce, sleep.
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/stat.h>

#include <fstream>
#include <random>
#include <thread>

#include "harness.h"

namespace vu::test {
namespace {

class RingStory : public ::testing::TestWithParam<RingCase> {
 protected:
  static BenchOptions usual() { return benchOptions(GetParam()); }
};

INSTANTIATE_TEST_SUITE_P(Rings, RingStory, ::testing::ValuesIn(ringCases()), ringCaseName);

TEST(Session, F38_MemoryIsSealedAndRingsLieFirst) {
  auto made = Session::create({2, 1024, 4096, kUsualFeatures, MemoryKind::kMemfd});
  ASSERT_TRUE(made.ok());
  const Session& session = *made.value();
  EXPECT_NE(::ftruncate(session.memoryFd(), 4096), 0);
  EXPECT_EQ(errno, EPERM);
  for (uint32_t ring = 0; ring < 4; ++ring) {
    EXPECT_EQ(session.layout(ring).desc % 4096, 0U);
    EXPECT_LE(session.layout(ring).end, session.rxOffset(0));
    EXPECT_EQ(session.expectedBase(ring), 0);
  }
  EXPECT_EQ(session.memoryBytes() % 4096, 0U);
}

TEST(Session, PackedRingsLieWhereDpdkPutsThemAndBeginWithBothWrapCountersOne) {
  auto made = Session::create({2, 256, 4096, kUsualFeatures | kFeatureRingPacked, MemoryKind::kMemfd});
  ASSERT_TRUE(made.ok());
  const Session& session = *made.value();
  for (uint32_t ring = 0; ring < 4; ++ring) {
    const VringLayout& layout = session.layout(ring);
    EXPECT_EQ(layout.desc, ring * 0x3000U);
    EXPECT_EQ(layout.avail, layout.desc + 0x1000);
    EXPECT_EQ(layout.used, layout.desc + 0x2000);
    EXPECT_EQ(session.expectedBase(ring), 0x8000);
    // VPP takes it for a used index when it learns the address.
    EXPECT_EQ(*reinterpret_cast<uint32_t*>(session.base() + layout.used), 0U);
  }
}

TEST(Session, PackedRingsNeedVersion1) {
  auto made = Session::create({1, 256, 4096, kFeatureRingPacked, MemoryKind::kMemfd});
  ASSERT_FALSE(made.ok());
  EXPECT_EQ(made.fault().errnum, EINVAL);
}

TEST(Port, TellsOfABackendThatTakesNoFramesAndNotOfOneThatDoes) {
  Bench stalled;
  Bench living;
  stalled.start();
  living.start();
  stalled.send(plainFrame(100, 1));
  living.expectPassed(plainFrame(100, 1));
  ASSERT_TRUE(stalled.corruption->signal.wait());
  {
    const std::lock_guard lock(stalled.corruption->mutex);
    EXPECT_EQ(stalled.corruption->events[0].first, PortEventKind::kBackendStalled);
  }
  EXPECT_EQ(living.corruption->signal.count(), 0);
  // Nothing has changed: when it goes on, so does the port.
  Chain chain;
  ASSERT_TRUE(stalled.await(chain));
  stalled.tx().push(chain.head, 0);
  stalled.tx().publish();
  stalled.expectPassed(plainFrame(100, 2));
}

TEST(Pump, WithoutRoomForAThreadIsAFaultAndNotTheEndOfTheProcess) {
  pthread_attr_t usual;
  pthread_attr_t impossible;
  ASSERT_EQ(::pthread_getattr_default_np(&usual), 0);
  ASSERT_EQ(::pthread_attr_init(&impossible), 0);
  // More than there are addresses: stands for a container's limit on its threads.
  ASSERT_EQ(::pthread_attr_setstacksize(&impossible, size_t{1} << 48), 0);
  ASSERT_EQ(::pthread_setattr_default_np(&impossible), 0);
  const auto refused = Pump::create("vu-refused", 0);
  ASSERT_EQ(::pthread_setattr_default_np(&usual), 0);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.fault().errnum, EAGAIN);
  EXPECT_TRUE(Pump::create("vu-made", 0).ok());
  ::pthread_attr_destroy(&usual);
  ::pthread_attr_destroy(&impossible);
}

TEST(Session, VirtualSizeOfTheDefaultGeometryIs42Megabytes) {
  auto made = Session::create({1, 1024, 4096, kUsualFeatures, MemoryKind::kMemfd});
  ASSERT_TRUE(made.ok());
  EXPECT_LE(made.value()->memoryBytes(), 42U << 20);
}

TEST_P(RingStory, AWindowOfReceiveBuffersIsPostedBeforeAnybodySeesTheMemory) {
  Bench bench(usual());
  EXPECT_EQ(bench.rx().available(), kRxWindowMin);
  Chain chain;
  while (bench.rx().pop(chain)) EXPECT_EQ(chain.bytes(), 4096U);
  bench.expectLawful();
}

TEST(Session, OptionsOutsideTheirRangeAreRefused) {
  for (const SessionOptions& bad :
       {SessionOptions{0, 256, 4096, 0, MemoryKind::kMemfd}, SessionOptions{1, 32, 4096, 0, MemoryKind::kMemfd},
        SessionOptions{1, 100, 4096, 0, MemoryKind::kMemfd}, SessionOptions{1, 8192, 4096, 0, MemoryKind::kMemfd},
        SessionOptions{1, 256, 1024, 0, MemoryKind::kMemfd}}) {
    auto made = Session::create(bad);
    ASSERT_FALSE(made.ok());
    EXPECT_EQ(made.fault().errnum, EINVAL);
  }
}

TEST(Session, F50_HugePagesThatAreNotThereAreAnErrorAndNotASignal) {
  // 4 GiB of huge pages: no test machine reserves so many.
  auto made = Session::create({16, 4096, 69632, kUsualFeatures, MemoryKind::kHugetlb});
  ASSERT_FALSE(made.ok());
  EXPECT_EQ(made.fault().errnum, ENOMEM);
  EXPECT_STREQ(made.fault().operation, "reserve 2 MB huge pages");
}

// Lets the kernel make huge pages on demand while it lives.
class HugePagesOnDemand {
 public:
  HugePagesOnDemand() {
    std::ifstream(kPath) >> before_;
    std::ofstream(kPath) << before_ + 8;
  }
  ~HugePagesOnDemand() { std::ofstream(kPath) << before_; }

 private:
  static constexpr const char* kPath = "/proc/sys/vm/nr_overcommit_hugepages";
  long before_ = 0;
};

TEST(Session, F50_HugePagesAreTakenBeforeAnybodyTouchesThem) {
  const HugePagesOnDemand pages;
  auto made = Session::create({1, 64, 2048, kUsualFeatures, MemoryKind::kHugetlb});
  if (!made.ok()) GTEST_SKIP() << "the kernel has no huge pages to give: " << made.fault().operation;
  Session& session = *made.value();
  // The next one may be gone meanwhile, to somebody else.
  const auto added = session.addReceiveBuffers(4096);
  if (!added.ok() && added.fault().errnum == ENOMEM) GTEST_SKIP() << "the kernel has no more huge pages";
  ASSERT_TRUE(added.ok());
  for (const SharedRegion& region : session.regions()) {
    struct stat status {};
    ASSERT_EQ(::fstat(region.fd->get(), &status), 0);
    EXPECT_EQ(static_cast<size_t>(status.st_blocks) * 512, region.mapping.size());
  }
}

// What the kernel was advised of the mapping at `address` (proc(5), VmFlags of smaps): " rd wr … hg ".
std::string adviceOf(const uint8_t* address) {
  std::ifstream smaps("/proc/self/smaps");
  const auto wanted = reinterpret_cast<uintptr_t>(address);
  bool found = false;
  for (std::string line; std::getline(smaps, line);) {
    uintptr_t begin = 0;
    uintptr_t end = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx ", &begin, &end) == 2) found = begin <= wanted && wanted < end;
    if (found && line.starts_with("VmFlags:")) return line.substr(std::strlen("VmFlags:")) + " ";
  }
  return "";
}

TEST(Session, TransparentHugePagesAreAdvisedForEveryRegionAndOnlyWhereAskedFor) {
  if (!std::ifstream("/sys/kernel/mm/transparent_hugepage/enabled")) GTEST_SKIP() << "the kernel has none";
  for (const auto& [memory, advised] : {std::pair{MemoryKind::kThp, true}, std::pair{MemoryKind::kMemfd, false}}) {
    auto made = Session::create({1, 64, 2048, kUsualFeatures, memory});
    ASSERT_TRUE(made.ok()) << made.fault().operation;
    Session& session = *made.value();
    ASSERT_TRUE(session.addReceiveBuffers(12288).ok());
    ASSERT_EQ(session.regions().size(), 2U);
    for (const SharedRegion& region : session.regions()) {
      const std::string advice = adviceOf(region.mapping.data());
      ASSERT_NE(advice, "");
      EXPECT_EQ(advice.find(" hg ") != std::string::npos, advised) << advice;
    }
  }
}

TEST_P(RingStory, S41_StartKicksEveryRingOnce) {
  BenchOptions options = usual();
  options.session.pairs = 2;
  Bench bench(options);
  bench.start();
  for (auto& device : bench.devices) EXPECT_EQ(device->drainKicks(), 1U);
  EXPECT_EQ(bench.counters().event(Event::kKicks), 4U);
}

TEST_P(RingStory, S57_FramesOfThePodArriveUnchangedWithNumBuffersZero) {
  Bench bench(usual());
  bench.start();
  for (const uint32_t payload : {0U, 46U, 1500U, 2022U, 2023U, 9000U, 65000U}) {
    Bytes frame = plainFrame(payload, static_cast<uint8_t>(payload));
    frame[10] = 7;
    bench.send(frame);
    Chain chain;
    ASSERT_TRUE(bench.await(chain));
    frame[10] = 0;
    EXPECT_EQ(gather(chain), frame);
    EXPECT_EQ(chain.segments.size(), frame.size() <= 2048 ? 1U : 2U);
    bench.tx().push(chain.head, 0);
    bench.tx().publish();
  }
  bench.quiesce();
  bench.expectNoLeak();
  bench.expectLawful();
  EXPECT_EQ(bench.counters().txFrames, 7U);
}

TEST_P(RingStory, SegmentationHeaderOfTheTapPassesUntouched) {
  Bench bench(usual());
  bench.start();
  Bytes frame = plainFrame(4000, 1);
  const Bytes header = {1, 1, 54, 0, 0xb4, 5, 34, 0, 16, 0, 0, 0};
  std::copy(header.begin(), header.end(), frame.begin());
  bench.send(frame);
  Chain chain;
  ASSERT_TRUE(bench.await(chain));
  EXPECT_EQ(gather(chain), frame);
}

TEST_P(RingStory, OffloadsThatTheBackendLacksNeverReachIt) {
  BenchOptions options = usual();
  options.session.features = GetParam().features(kFeatureVersion1 | kFeatureMrgRxbuf | kFeatureEventIdx);
  Bench bench(options);
  bench.start();
  Bytes frame = plainFrame(4000, 1);
  for (const uint8_t type : {uint8_t{0}, uint8_t{1}, uint8_t{3}, uint8_t{4}, uint8_t{5}, uint8_t{0x81}, uint8_t{9}}) {
    frame[0] = 1;
    frame[1] = type;
    bench.send(frame);
  }
  Bytes plain = plainFrame(60, 1);
  plain[0] = 2;  // DATA_VALID: a driver must not set it.
  bench.send(plain);
  Chain chain;
  ASSERT_TRUE(bench.await(chain));
  plain[0] = 0;
  EXPECT_EQ(gather(chain), plain);
  EXPECT_EQ(bench.counters().drop(Drop::kTxUnsupported), 7U);
}

class Mergeable : public ::testing::TestWithParam<std::tuple<RingCase, uint32_t>> {};

TEST_P(Mergeable, S56_FrameOfManyBuffersArrivesWhole) {
  const auto& [ring, buffers] = GetParam();
  Bench bench(benchOptions(ring));
  bench.start();
  Bytes frame = plainFrame(buffers * 3800, 3);
  bench.deliver(frame, buffers);
  const auto count = static_cast<uint16_t>(buffers);
  std::memcpy(frame.data() + 10, &count, 2);
  EXPECT_EQ(bench.receive(), frame);
  bench.quiesce();
  bench.expectNoLeak();
  bench.expectLawful();
  EXPECT_EQ(bench.counters().rxFrames, 1U);
  EXPECT_EQ(bench.counters().rxBytes, frame.size() - 12);
}

INSTANTIATE_TEST_SUITE_P(Rings, Mergeable,
                         ::testing::Combine(::testing::ValuesIn(ringCases(true)), ::testing::Range(1U, 18U)),
                         [](const auto& info) {
                           return std::get<0>(info.param).name() + "_" + std::to_string(std::get<1>(info.param));
                         });

class MergeableStory : public RingStory {};

INSTANTIATE_TEST_SUITE_P(Rings, MergeableStory, ::testing::ValuesIn(ringCases(true)), ringCaseName);

TEST_P(MergeableStory, S56_FrameWhoseBuffersComeInTwoWakeUpsIsWrittenOnceAndWhole) {
  Bench bench(usual());
  bench.start();
  Bytes frame = plainFrame(6000, 9);
  const uint16_t two = 2;
  std::memcpy(frame.data() + 10, &two, 2);
  Chain first;
  Chain second;
  ASSERT_TRUE(bench.rx().pop(first));
  ASSERT_TRUE(bench.rx().pop(second));
  std::memcpy(first.segments[0].host, frame.data(), 4096);
  ASSERT_TRUE(eventually([&] { return bench.rx().callArmed(); }));
  bench.rx().push(first.head, 4096);
  bench.rx().publish();
  EXPECT_TRUE(bench.rx().notify());
  // The pump has looked and sleeps again when it has put its event index past the first element.
  ASSERT_TRUE(eventually([&] { return bench.rx().callArmed(); }));
  EXPECT_FALSE(bench.podHasFrame());
  std::memcpy(second.segments[0].host, frame.data() + 4096, frame.size() - 4096);
  bench.rx().push(second.head, static_cast<uint32_t>(frame.size() - 4096));
  bench.rx().publish();
  EXPECT_TRUE(bench.rx().notify());
  EXPECT_EQ(bench.receive(), frame);
  bench.quiesce();
  bench.expectNoLeak();
}

TEST_P(RingStory, HeldPortLeavesFramesInTheTap) {
  Bench bench(usual());
  const Bytes frame = plainFrame(100, 1);
  bench.send(frame);
  bench.quiesce();
  EXPECT_EQ(bench.tx().available(), 0);
  bench.start();
  Chain chain;
  ASSERT_TRUE(bench.await(chain));
  EXPECT_EQ(gather(chain), frame);
}

TEST_P(RingStory, DiscardingPortReadsAndCounts) {
  Bench bench(usual());
  for (uint8_t i = 0; i < 100; ++i) bench.send(plainFrame(500, i));
  ASSERT_TRUE(bench.port->discard().ok());
  ASSERT_TRUE(eventually([&] { return bench.port->counters().drop(Drop::kTxDiscarded) == 100; }));
  const Bytes fresh = plainFrame(60, 200);
  bench.start();
  bench.send(fresh);
  Chain chain;
  ASSERT_TRUE(bench.await(chain));
  EXPECT_EQ(gather(chain), fresh);
  EXPECT_EQ(bench.counters().txFrames, 1U);
}

TEST_P(RingStory, FramesInFlightAtQuiesceAreCountedAsLost) {
  Bench bench(usual());
  bench.start();
  for (uint8_t i = 0; i < 10; ++i) bench.send(plainFrame(100, i));
  Chain first;
  Chain chain;
  ASSERT_TRUE(bench.await(first));
  for (int i = 1; i < 10; ++i) ASSERT_TRUE(bench.await(chain));
  bench.tx().push(first.head, 0);
  bench.tx().publish();
  bench.quiesce();
  EXPECT_EQ(bench.counters().drop(Drop::kTxLost), 9U);
  bench.expectNoLeak();
}

TEST_P(RingStory, F44_QuiescedSessionIsNeverTouchedAgain) {
  Bench bench(usual());
  bench.start();
  bench.quiesce();
  const Bytes before(bench.session->base(), bench.session->base() + bench.session->rxOffset(0));
  bench.send(plainFrame(100, 1));
  const uint64_t one = 1;
  ASSERT_EQ(::write(bench.session->callFd(0), &one, sizeof one), 8);
  bench.quiesce();
  const Bytes after(bench.session->base(), bench.session->base() + bench.session->rxOffset(0));
  EXPECT_EQ(before, after);
  EXPECT_FALSE(bench.session->owned());
}

TEST_P(RingStory, F44_NewSessionAfterADeadOneCarriesTraffic) {
  Bench bench(usual());
  bench.start();
  for (uint8_t round = 0; round < 5; ++round) {
    bench.quiesce();
    bench.newSession();
    bench.start();
    const Bytes frame = plainFrame(3000, round);
    bench.send(frame);
    Chain chain;
    ASSERT_TRUE(bench.await(chain));
    EXPECT_EQ(gather(chain), frame);
    bench.deliver(frame, 1);
    EXPECT_EQ(bench.receive().size(), frame.size());
  }
  EXPECT_EQ(bench.counters().drop(Drop::kTxLost), 4U);
}

// A backend that comes back without packed rings, or with them: new memory each time, so the kind may change.
TEST_P(RingStory, SessionOfTheOtherKindCarriesOn) {
  Bench bench(usual());
  for (uint8_t round = 0; round < 4; ++round) {
    bench.start();
    for (uint8_t i = 0; i < 100; ++i) {
      ASSERT_NO_FATAL_FAILURE(bench.expectPassed(plainFrame(i % 2 == 0 ? 100 : 5000, i)));
      bench.deliver(plainFrame(200, i), 1);
      EXPECT_EQ(bench.receive().size(), 226U);
    }
    bench.quiesce();
    bench.expectNoLeak();
    bench.expectLawful();
    bench.options_.session.features ^= kFeatureRingPacked;
    bench.newSession();
  }
  EXPECT_EQ(bench.counters().drop(Drop::kTxLost), 0U);
}

TEST(Port, SessionOfOnePortIsRefusedToAnother) {
  Bench bench;
  Bench other;
  bench.start();
  auto second = other.port->start(bench.session, {}, nullptr);
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.fault().errnum, EBUSY);
  auto again = bench.port->start(other.session, {}, nullptr);
  ASSERT_FALSE(again.ok());
  EXPECT_EQ(again.fault().errnum, EBUSY);
  EXPECT_FALSE(other.session->owned());
}

TEST_P(RingStory, S57_FullTransmitRingReadsNothingAndGoesOnWhenThereIsRoom) {
  BenchOptions options = usual();
  options.session.queueSize = 64;
  Bench bench(options);
  bench.start();
  std::thread pod([&] {
    for (uint32_t i = 0; i < 500; ++i) bench.send(plainFrame(1000, static_cast<uint8_t>(i)));
  });
  ASSERT_TRUE(eventually([&] { return bench.port->counters().event(Event::kTxRingFull) >= 1; }));
  EXPECT_GE(bench.tx().available(), 62);
  uint32_t got = 0;
  ASSERT_TRUE(eventually([&] {
    Chain chain;
    while (bench.tx().pop(chain)) {
      EXPECT_EQ(gather(chain), plainFrame(1000, static_cast<uint8_t>(got)));
      ++got;
      bench.tx().push(chain.head, 0);
    }
    bench.tx().publish();
    bench.tx().notify();
    return got == 500;
  }));
  pod.join();
  bench.quiesce();
  bench.expectNoLeak();
  bench.expectLawful();
  EXPECT_EQ(bench.counters().drop(Drop::kTxLost), 0U);
}

TEST_P(RingStory, F40_FullRingWithoutACallIsSeenByTheFallback) {
  BenchOptions options = usual();
  options.session.queueSize = 64;
  Bench bench(options);
  bench.start();
  constexpr uint32_t kRounds = 8;
  std::thread pod([&] {
    for (uint32_t i = 0; i < 64 * (kRounds + 1) && !HasFailure(); ++i)
      bench.send(plainFrame(1000, static_cast<uint8_t>(i)));
  });
  const auto begun = std::chrono::steady_clock::now();
  for (uint32_t round = 0; round < kRounds && !HasFailure(); ++round) {
    // A pump that still has room goes on by itself.
    EXPECT_TRUE(eventually([&] { return bench.port->counters().event(Event::kTxRingFull) > round; }));
    Chain chain;
    while (bench.tx().pop(chain)) bench.tx().push(chain.head, 0);
    bench.tx().publish();  // No notify: the call is lost.
  }
  // A tenth of a second each; 8 s with the look that others get.
  EXPECT_LT(std::chrono::steady_clock::now() - begun, std::chrono::seconds(6));
  pod.join();
}

TEST_P(RingStory, F40_ReceivedFrameWithoutACallIsSeenWithinASecond) {
  Bench bench(usual());
  bench.start();
  bench.fill(plainFrame(100, 1), 1);
  const auto begun = std::chrono::steady_clock::now();
  bench.rx().publish();
  EXPECT_EQ(bench.receive().size(), 126U);
  // A second, and what a busy machine adds.
  EXPECT_LT(std::chrono::steady_clock::now() - begun, std::chrono::seconds(10));
}

TEST(Port, TapThatIsGoneIsReportedOnce) {
  Bench bench;
  bench.start();
  bench.pods[0].reset();
  ASSERT_TRUE(bench.corruption->signal.wait());
  bench.quiesce();
  const std::lock_guard lock(bench.corruption->mutex);
  ASSERT_EQ(bench.corruption->events.size(), 1U);
  EXPECT_EQ(bench.corruption->events[0].first, PortEventKind::kTapGone);
}

TEST_P(RingStory, InjectedFrameIsSentAsIfThePodHad) {
  Bench bench(usual());
  const Bytes framed = plainFrame(46, 5);
  const Bytes bare(framed.begin() + 12, framed.end());
  bench.port->inject(bare);
  ASSERT_TRUE(eventually([&] { return bench.port->counters().drop(Drop::kTxInject) == 1; }));
  bench.start();
  bench.port->inject(bare);
  Chain chain;
  ASSERT_TRUE(bench.await(chain));
  EXPECT_EQ(gather(chain), framed);
}

TEST_P(RingStory, TruncatedAndRuntFramesAreDroppedAndCounted) {
  Bench bench(usual());
  bench.start();
  bench.send(Bytes(20, 0));
  bench.send(Bytes(2048 + 68 * 1024 + 100, 0));
  const Bytes good = plainFrame(60, 1);
  bench.send(good);
  Chain chain;
  ASSERT_TRUE(bench.await(chain));
  EXPECT_EQ(gather(chain), good);
  EXPECT_EQ(bench.counters().drop(Drop::kTxInvalid), 1U);
  EXPECT_EQ(bench.counters().drop(Drop::kTxTruncated), 1U);
}

TEST_P(RingStory, PairsOfOnePortLiveOnTheirPumps) {
  BenchOptions options = usual();
  options.session.pairs = 3;
  options.pumps = 2;
  Bench bench(options);
  bench.start();
  for (uint32_t pair = 0; pair < 3; ++pair) {
    const Bytes frame = plainFrame(200 + pair, static_cast<uint8_t>(pair));
    bench.send(frame, pair);
    Chain chain;
    ASSERT_TRUE(bench.await(chain, pair));
    EXPECT_EQ(gather(chain), frame);
    bench.deliver(frame, 1, pair);
    EXPECT_EQ(bench.receive(pair).size(), frame.size());
  }
  bench.quiesce();
  EXPECT_EQ(bench.counters().txFrames, 3U);
  EXPECT_EQ(bench.counters().rxFrames, 3U);
}

TEST_P(RingStory, S57_QuiesceUnderLoadLosesNothingThatIsNotCounted) {
  BenchOptions options = usual();
  options.session.queueSize = 64;
  options.spinUs = 50;
  Bench bench(options);
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> sent{0};
  std::thread pod([&] {
    const Bytes frame = plainFrame(300, 1);
    while (!stop.load()) {
      if (::send(bench.pods[0].get(), frame.data(), frame.size(), MSG_NOSIGNAL) > 0) {
        sent.fetch_add(1);
      } else {
        std::this_thread::yield();
      }
    }
  });
  uint64_t received = 0;
  for (int round = 0; round < 30; ++round) {
    if (round != 0) bench.newSession();
    bench.start();
    Chain chain;
    for (int i = 0; i < 200; ++i) {
      while (bench.tx().pop(chain)) {
        ++received;
        bench.tx().push(chain.head, 0);
        bench.tx().publish();
        bench.tx().notify();
      }
      std::this_thread::yield();
    }
    bench.quiesce();
    bench.expectNoLeak();
    bench.expectLawful();
  }
  stop.store(true);
  pod.join();
  ASSERT_TRUE(bench.port->discard().ok());
  ASSERT_TRUE(eventually([&] {
    const CounterTotals totals = bench.port->counters();
    return totals.txFrames + totals.drop(Drop::kTxDiscarded) == sent.load();
  }));
  const CounterTotals totals = bench.counters();
  EXPECT_EQ(totals.txFrames, received + totals.drop(Drop::kTxLost));
}

TEST(Pump, IdlePortsSleep) {
  auto made = Pump::create("vu-idle", 50);
  ASSERT_TRUE(made.ok());
  const std::shared_ptr<Pump> pump = std::move(made).value();
  {
    BenchOptions options;
    options.session.queueSize = 64;
    options.sharedPump = pump;
    std::vector<std::unique_ptr<Bench>> benches;
    for (int i = 0; i < 20; ++i) {
      benches.push_back(std::make_unique<Bench>(options));
      benches.back()->start();
    }
    // All of them asleep: a command is answered, then nothing happens but the look once a second.
    benches[0]->port->inject(Bytes(10));
    ASSERT_TRUE(eventually([&] { return benches[0]->port->counters().drop(Drop::kTxInject) == 1; }));
    const uint64_t before = pump->wakeups();
    ASSERT_EQ(::poll(nullptr, 0, 1500), 0);
    // One look for all of them each second, and what a busy machine adds.
    EXPECT_LE(pump->wakeups() - before, 10U);
  }
  pump->stop();
}

// Of the processor, which a busy machine does not make longer.
uint64_t cpuNsOf(Pump& pump) {
  uint64_t ns = 0;
  Signal asked;
  EXPECT_TRUE(pump.post([&] {
    timespec time{};
    EXPECT_EQ(::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time), 0);
    ns = static_cast<uint64_t>(time.tv_sec) * kSecondNs + static_cast<uint64_t>(time.tv_nsec);
    asked.raise();
  }));
  EXPECT_TRUE(asked.wait());
  return ns;
}

TEST(Pump, SpinIsBoundedByItsBudget) {
  BenchOptions options;
  options.spinUs = 1000;
  Bench bench(options);
  bench.start();
  // 1 ms of spin after each frame, a frame every 1.2 ms: without the budget it would spin 80 % of the time. How much of
  // its budget it uses depends on who else wants the core.
  const uint64_t cpuNs = cpuNsOf(*bench.pumps[0]);
  const auto begin = std::chrono::steady_clock::now();
  Chain chain;
  while (std::chrono::steady_clock::now() - begin < std::chrono::milliseconds(1500)) {
    bench.send(plainFrame(60, 1));
    ASSERT_TRUE(bench.await(chain));
    bench.tx().push(chain.head, 0);
    bench.tx().publish();
    std::this_thread::sleep_for(std::chrono::microseconds(1150));
  }
  EXPECT_GT(bench.pumps[0]->fruitlessSpinNs(), 0U);
  const uint64_t spentNs = cpuNsOf(*bench.pumps[0]) - cpuNs;
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(std::chrono::steady_clock::now() - begin);
  // A budget for each second begun, and the frames' own work.
  EXPECT_LT(spentNs, 300'000'000U * (static_cast<uint64_t>(seconds.count()) + 1) + 300'000'000U);
}

TEST_P(RingStory, F39_CallStormIsMutedAndTrafficGoesOn) {
  Bench bench(usual());
  bench.start();
  const uint64_t one = 1;
  ASSERT_TRUE(eventually([&] {
    for (int i = 0; i < 50; ++i) (void)!::write(bench.session->callFd(0), &one, sizeof one);
    return bench.port->counters().event(Event::kCallsMuted) == 1;
  }));
  bench.deliver(plainFrame(100, 1), 1);
  EXPECT_EQ(bench.receive().size(), 126U);
}

}  // namespace
}  // namespace vu::test
