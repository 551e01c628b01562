// Kicks to a backend that has the eventfd as well as we do, and can make a kick block, or take long: that breaks its
// own port, and the pump's other ports do not notice.
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/resource.h>

#include <thread>

#include "harness.h"

namespace vu::test {
namespace {

class Kick : public ::testing::TestWithParam<RingCase> {};
INSTANTIATE_TEST_SUITE_P(Rings, Kick, ::testing::ValuesIn(ringCases()), ringCaseName);

// As full as it gets: one more would block, or be refused with EAGAIN.
void fillCounter(int fd) {
  const uint64_t full = 0xfffffffffffffffe;
  ASSERT_EQ(::write(fd, &full, sizeof full), static_cast<ssize_t>(sizeof full));
}

TEST_P(Kick, F41_OfAFullCounterIsPendingAnywayAndTrafficGoesOn) {
  Bench bench(benchOptions(GetParam()));
  for (uint32_t ring = 0; ring < 2; ++ring) fillCounter(bench.session->kickFd(ring));
  bench.start();
  for (uint8_t seed = 1; seed < 5; ++seed) {
    bench.send(plainFrame(300, seed));
    Chain chain;
    ASSERT_TRUE(bench.await(chain));
    EXPECT_EQ(gather(chain), plainFrame(300, seed));
  }
  bench.deliver(plainFrame(300, 9), 1);
  EXPECT_EQ(bench.receive().size(), plainFrame(300, 9).size());
  bench.quiesce();
  bench.expectLawful();
}

// O_NONBLOCK belongs to the open file, which the backend has too.
void letKicksBlock(Bench& bench, uint32_t ring) {
  bench.devices[ring]->drainKicks();
  const int fd = bench.session->kickFd(ring);
  fillCounter(fd);
  ASSERT_EQ(::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) & ~O_NONBLOCK), 0);
}

class BlockedKick : public ::testing::TestWithParam<RingCase> {
 protected:
  BlockedKick() : options_(benchOptions(GetParam())) {
    auto made = Pump::create("vu-kick", 0);
    EXPECT_TRUE(made.ok());
    options_.sharedPump = std::move(made).value();
    options_.session.pairs = 2;
    hostile = std::make_unique<Bench>(options_);
    neighbour = std::make_unique<Bench>(options_);
    neighbour->start();
  }
  ~BlockedKick() override {
    hostile.reset();
    neighbour.reset();
    options_.sharedPump->stop();
  }
  // The pod sends and the device takes it and wants kicks, for 20 s at most.
  bool trafficUntilBroken() {
    const Bytes frame = plainFrame(60, 1);
    return eventually([&] {
      (void)::send(hostile->pods[0].get(), frame.data(), frame.size(), MSG_NOSIGNAL);
      Chain chain;
      while (hostile->tx().pop(chain)) hostile->tx().push(chain.head, 0);
      hostile->tx().publish();
      hostile->tx().armKicks();
      return hostile->corruption->signal.count() != 0;
    });
  }
  void expectBrokenAlone() {
    ASSERT_TRUE(hostile->corruption->signal.wait());
    EXPECT_EQ(hostile->corruption->events[0].first, PortEventKind::kKickBlocked);
    neighbour->expectPassed(plainFrame(60, 1));
    hostile->quiesce();
    hostile->newSession();
    hostile->start();
    // More than one where the pod has sent meanwhile.
    for (uint32_t ring = 0; ring < 4; ++ring) EXPECT_GE(hostile->devices[ring]->drainKicks(), 1U);
    EXPECT_EQ(hostile->corruption->signal.count(), 1);
  }

  BenchOptions options_;
  std::unique_ptr<Bench> hostile;
  std::unique_ptr<Bench> neighbour;
};
INSTANTIATE_TEST_SUITE_P(Rings, BlockedKick, ::testing::ValuesIn(ringCases()), ringCaseName);

TEST_P(BlockedKick, F41_OfATransmitRingBreaksItsPortAndNoOther) {
  hostile->start();
  letKicksBlock(*hostile, 1);
  hostile->send(plainFrame(60, 1));
  expectBrokenAlone();
}

TEST_P(BlockedKick, F41_OfAReceiveRingBreaksItsPortAndNoOther) {
  hostile->start();
  letKicksBlock(*hostile, 0);
  // A ring without a buffer left is what its device wants a kick for.
  for (uint32_t i = 0; i < kRxWindowMin; ++i) hostile->fill(plainFrame(60, 1), 1);
  hostile->rx().armKicks();
  hostile->rx().publish();
  hostile->rx().notify();
  expectBrokenAlone();
}

TEST_P(BlockedKick, F41_OfARingThatRestsBreaksThePortAsItStarts) {
  letKicksBlock(*hostile, 3);
  hostile->start(1);
  expectBrokenAlone();
}

TEST_P(Kick, F42_ThatThePeerHasClosedIsStillOurs) {
  Bench bench(benchOptions(GetParam()));
  // What a backend gets are duplicates; it closes them whenever it likes.
  for (const int fd : {bench.session->kickFd(1), bench.session->callFd(1)}) ::close(::dup(fd));
  bench.start();
  bench.send(plainFrame(300, 1));
  Chain chain;
  ASSERT_TRUE(bench.await(chain));
  EXPECT_GT(bench.tx().drainKicks(), 0U);
  EXPECT_EQ(gather(chain), plainFrame(300, 1));
}

// One that blocks for milliseconds only, each time.
TEST_P(BlockedKick, F41_ThatIsLetGoOfSoonBreaksItsPortAllTheSame) {
  hostile->start();
  const int fd = hostile->session->kickFd(1);
  const int flags = ::fcntl(fd, F_GETFL);
  std::atomic<bool> over{false};
  std::thread backend([&] {
    const uint64_t full = 0xfffffffffffffffe;
    uint64_t count = 0;
    while (!over.load()) {
      (void)!::read(fd, &count, sizeof count);
      if (::write(fd, &full, sizeof full) < 0) continue;  // a kick came in between
      EXPECT_EQ(::fcntl(fd, F_SETFL, flags & ~O_NONBLOCK), 0);
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
      EXPECT_EQ(::fcntl(fd, F_SETFL, flags), 0);
      // The kick that waits comes first.
      (void)!::read(fd, &count, sizeof count);
      std::this_thread::sleep_for(std::chrono::microseconds(300));
    }
  });
  EXPECT_TRUE(trafficUntilBroken());
  over.store(true);
  backend.join();
  expectBrokenAlone();
}

TEST_P(BlockedKick, F41_OfManyPairsIsTriedOnce) {
  options_.session.pairs = 16;
  Bench many(options_);
  for (uint32_t ring = 0; ring < 32; ++ring) letKicksBlock(many, ring);
  many.start();
  ASSERT_TRUE(many.corruption->signal.wait());
  EXPECT_EQ(many.counters().event(Event::kKicks), 1U);
  neighbour->expectPassed(plainFrame(60, 1));
}

TEST_P(BlockedKick, F41_ThatWakesThousandsOfWatchersBreaksItsPortToo) {
  constexpr uint32_t kSets = 24;
  constexpr uint32_t kNumbers = 2000;
  rlimit limit{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &limit), 0);
  if (limit.rlim_max < 2 * kNumbers) GTEST_SKIP() << "too few descriptors are allowed";
  const rlimit raised{limit.rlim_max, limit.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &raised), 0);
  hostile->start();
  std::vector<UniqueFd> numbers;
  std::vector<UniqueFd> sets;
  for (uint32_t i = 0; i < kNumbers; ++i) numbers.emplace_back(::dup(hostile->session->kickFd(1)));
  for (uint32_t i = 0; i < kSets; ++i) {
    sets.emplace_back(::epoll_create1(EPOLL_CLOEXEC));
    for (const UniqueFd& number : numbers) {
      epoll_event event{};
      event.events = EPOLLIN | EPOLLET;
      ASSERT_EQ(::epoll_ctl(sets.back().get(), EPOLL_CTL_ADD, number.get(), &event), 0);
    }
  }
  EXPECT_TRUE(trafficUntilBroken());
  EXPECT_EQ(hostile->corruption->events[0].second, "the backend made kicks take milliseconds");
  sets.clear();
  expectBrokenAlone();
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &limit), 0);
}

}  // namespace
}  // namespace vu::test
