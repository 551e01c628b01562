// What a pump could miss: a frame that comes between its last look at the TAP and its sleep, one that no call tells of
// while another pod keeps it busy, and all of them while somebody else has its core. And when it gives that core away.
//
// A binary of its own: the linker puts __wrap_… in the place of vuReadTap, sched_yield, nanosleep and epoll_ctl. Runs
// in every build.
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/utsname.h>

#include <atomic>
#include <cerrno>
#include <cstdio>

#include "harness.h"
#include "packet_reference.h"

namespace {
// A TAP, and the pod's end of it, which sends a frame when the pump has found the TAP empty so many times.
std::atomic<int> emptyReadsLeft{0};
std::atomic<int> watchedTap{-1};
std::atomic<int> pod{-1};
vu::test::Bytes lateFrame;
// The TAP of a pod that always has another frame, of so many bytes; how many were read since another TAP was looked at,
// and the most that were.
std::atomic<int> busyTap{-1};
std::atomic<uint32_t> busyBytes{64};
std::atomic<uint32_t> inSuccession{0};
std::atomic<uint32_t> mostInSuccession{0};
constexpr std::chrono::microseconds kFrameTime{100};
// How often a pump has yielded; what it waits then until it has the core again (-1: it has it at once), and how often
// one has waited.
std::atomic<uint32_t> yields{0};
std::atomic<int> crowdUs{0};
std::atomic<uint32_t> longYields{0};
// How often a pump has slept without waiting for anything.
std::atomic<uint32_t> rests{0};

// How many of the next watches of a pump the kernel refuses.
std::atomic<int> refusedWatches{0};

bool isPump() {
  char name[16] = {};
  return ::prctl(PR_GET_NAME, name) == 0 && std::strncmp(name, "vu-test-", 8) == 0;
}
}  // namespace

extern "C" {
ssize_t __real_vuReadTap(int fd, const iovec* parts, int count) noexcept;
ssize_t __wrap_vuReadTap(int fd, const iovec* parts, int count) noexcept;

ssize_t __wrap_vuReadTap(int fd, const iovec* parts, int count) noexcept {
  if (fd == busyTap.load()) {
    const auto end = std::chrono::steady_clock::now() + kFrameTime;
    while (std::chrono::steady_clock::now() < end) {
    }
    const uint32_t frames = inSuccession.fetch_add(1) + 1;
    if (frames > mostInSuccession.load()) mostInSuccession.store(frames);
    return busyBytes.load();
  }
  inSuccession.store(0);
  const ssize_t got = __real_vuReadTap(fd, parts, count);
  if (fd != watchedTap.load() || got >= 0 || errno != EAGAIN) return got;
  if (emptyReadsLeft.load() > 0 && emptyReadsLeft.fetch_sub(1) == 1) {
    EXPECT_GT(::send(pod.load(), lateFrame.data(), lateFrame.size(), MSG_NOSIGNAL), 0);
  }
  errno = EAGAIN;
  return -1;
}

int __real_epoll_ctl(int epoll, int operation, int fd, epoll_event* event) noexcept;
int __wrap_epoll_ctl(int epoll, int operation, int fd, epoll_event* event) noexcept;

int __wrap_epoll_ctl(int epoll, int operation, int fd, epoll_event* event) noexcept {
  if (operation != EPOLL_CTL_ADD || refusedWatches.load() == 0 || !isPump()) {
    return __real_epoll_ctl(epoll, operation, fd, event);
  }
  refusedWatches.fetch_sub(1);
  errno = ENOSPC;
  return -1;
}

int __real_nanosleep(const timespec* time, timespec* left);
int __wrap_nanosleep(const timespec* time, timespec* left);

int __wrap_nanosleep(const timespec* time, timespec* left) {
  if (isPump()) rests.fetch_add(1);
  return __real_nanosleep(time, left);
}

int __real_sched_yield();
int __wrap_sched_yield();

int __wrap_sched_yield() {
  if (!isPump()) return __real_sched_yield();
  yields.fetch_add(1);
  const int us = crowdUs.load();
  if (us < 0) return 0;
  if (us == 0) return __real_sched_yield();
  longYields.fetch_add(1);
  const timespec crowd{0, us * 1000L};
  return __real_nanosleep(&crowd, nullptr);
}
}

namespace vu::test {
namespace {

// Of the calling thread, as sched_getattr(2) gives it.
uint64_t timeSliceNs() {
  struct {
    uint32_t size, policy;
    uint64_t flags;
    uint32_t nice, priority;
    uint64_t runtime, deadline, period;
  } attr{};
  EXPECT_EQ(::syscall(SYS_sched_getattr, 0, &attr, sizeof attr, 0), 0);
  return attr.runtime;
}

// The pump asks epoll for events once in 16 rounds of a pair: what it is told then must outlive the round.
TEST(Wakeup, FrameThatComesRightAfterTheTapWasFoundEmptyIsNotLeftBehind) {
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
  BenchOptions options;
  options.taps.emplace_back(ends[0]);
  Bench bench(std::move(options));
  bench.pods.emplace_back(ends[1]);
  bench.start();
  watchedTap.store(ends[0]);
  pod.store(ends[1]);
  lateFrame = plainFrame(60, 2);
  Chain chain;
  for (int i = 0; i < 200; ++i) {
    // Without spin a pump sleeps after one round without work: its read is the second that finds nothing.
    emptyReadsLeft.store(2);
    bench.send(plainFrame(60, 1));
    for (int frame = 0; frame < 2; ++frame) {
      ASSERT_TRUE(bench.await(chain)) << "frame " << frame << " of exchange " << i;
      bench.tx().push(chain.head, 0);
      bench.tx().publish();
    }
  }
  EXPECT_EQ(bench.counters().txFrames, 400U);
}

// A second after it came, and not after so many rounds of the pod that is busy (4096: half a minute here).
TEST(Wakeup, F40_FrameWithoutACallIsSeenWhileAnotherPodKeepsThePumpBusy) {
  auto pump = Pump::create("vu-busy", 0);
  ASSERT_TRUE(pump.ok());
  BenchOptions options;
  options.sharedPump = pump.value();
  {
    Bench quiet(options);
    quiet.start();
    int ends[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
    const UniqueFd busyPod(ends[1]);
    BenchOptions busyOptions = Bench::copyWithoutTaps(options);
    busyOptions.taps.emplace_back(ends[0]);
    Bench busy(std::move(busyOptions));
    busyTap.store(ends[0]);
    ASSERT_TRUE(busy.port->discard().ok());
    ASSERT_TRUE(eventually([&] { return busy.port->counters().drop(Drop::kTxDiscarded) != 0; }));
    quiet.fill(plainFrame(100, 1), 1);
    const auto begun = std::chrono::steady_clock::now();
    quiet.rx().publish();
    EXPECT_EQ(quiet.receive().size(), 126U);
    EXPECT_LT(std::chrono::steady_clock::now() - begun, std::chrono::seconds(10));
    busyTap.store(-1);
  }
  pump.value()->stop();
}

// What no event announces is found by the look of each second, which asks for the watches again.
TEST(Wakeup, FramesPassWhereTheKernelRefusesWatchesForAWhile) {
  for (const int refused : {1, 2, 1000}) {
    Bench bench;
    refusedWatches.store(refused);
    bench.start();
    bench.counters();
    bench.expectPassed(plainFrame(60, 1));
    bench.deliver(plainFrame(60, 2), 1);
    EXPECT_EQ(bench.receive().size(), plainFrame(60, 2).size());
    refusedWatches.store(0);
    // Also what is in the way of an event from now on.
    bench.quiesce();
    bench.newSession();
    bench.start();
    bench.expectPassed(plainFrame(60, 3));
  }
}

// Beside a process that computes a yield costs a time slice, where a sleeper that is woken goes first.
TEST(Wakeup, PumpOnACrowdedCoreSleepsInsteadOfYielding) {
  BenchOptions options;
  options.spinUs = 1000;
  Bench bench(options);
  bench.start();
  crowdUs.store(2000);
  const auto begun = std::chrono::steady_clock::now();
  const auto elapsedMs = [&] {
    return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - begun).count();
  };
  uint32_t exchanges = 0;
  for (; elapsedMs() < 200; ++exchanges) {
    bench.send(plainFrame(60, 1));
    Chain chain;
    ASSERT_TRUE(bench.await(chain));
    bench.tx().push(chain.head, 0);
    bench.tx().publish();
    // Spinning, or asleep.
    bench.counters();
  }
  crowdUs.store(0);
  // One tells, and each later one keeps it from the next for twice as long: 10 ms, 20 ms, …
  EXPECT_GE(longYields.load(), 1U);
  EXPECT_LE(longYields.load(), 4U + static_cast<uint32_t>(elapsedMs() / 40)) << exchanges << " exchanges";
  bench.expectPassed(plainFrame(60, 2));
}

// Else the switch fills the receive rings meanwhile: 64 frames of 64 KiB take a millisecond.
TEST(Wakeup, RingsWaitForAMegabyteOfAnotherPodAndNotForSixtyFourLargeFrames) {
  BenchOptions options;
  options.session.pairs = 2;
  std::vector<UniqueFd> ofPods;
  for (int i = 0; i < 2; ++i) {
    int ends[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
    options.taps.emplace_back(ends[0]);
    ofPods.emplace_back(ends[1]);
  }
  const int busy = options.taps[0].get();
  Bench bench(std::move(options));
  bench.start();
  constexpr uint32_t kLarge = 60'000;
  busyBytes.store(kLarge);
  mostInSuccession.store(0);
  busyTap.store(busy);
  // One wake-up for both: the pod without more frames is looked at for 64 rounds.
  Signal held;
  Signal sent;
  ASSERT_TRUE(bench.pumps[0]->post([&] {
    held.raise();
    sent.wait();
  }));
  ASSERT_TRUE(held.wait());
  const uint64_t one = 1;
  for (const UniqueFd& pod : ofPods) ASSERT_GT(::send(pod.get(), &one, sizeof one, MSG_NOSIGNAL), 0);
  sent.raise();
  Chain chain;
  for (int frame = 0; frame < 300; ++frame) {
    ASSERT_TRUE(bench.await(chain)) << frame;
    bench.tx().push(chain.head, 0);
    bench.tx().publish();
  }
  const uint32_t most = mostInSuccession.load();
  busyTap.store(-1);
  busyBytes.store(64);
  EXPECT_GT(most, 1U);
  EXPECT_LE(most, 1024 * 1024 / kLarge + 1);
}

// Its sockets are bounded: a pod on the pump's core must come to read them before the pump has filled them.
TEST(Wakeup, PumpGivesItsCoreAwayWhenPodsHaveGotABurstOfFrames) {
  Bench bench;
  bench.start();
  const auto yieldsOf = [&](uint32_t frames) {
    const uint32_t before = yields.load();
    for (uint32_t i = 0; i < frames; ++i) bench.fill(plainFrame(100, 1), 1);
    bench.rx().publish();
    bench.rx().notify();
    for (uint32_t i = 0; i < frames; ++i) EXPECT_FALSE(bench.receive().empty());
    // The first may come before the yield, within the round; the second comes after the sleep that follows.
    bench.counters();
    bench.counters();
    return yields.load() - before;
  };
  // Half the window: it grows to 128 buffers.
  EXPECT_EQ(yieldsOf(32), 0U);
  ASSERT_TRUE(eventually([&] { return bench.rx().available() >= 128; }));
  EXPECT_EQ(yieldsOf(128), 1U);
  // Asleep in between: these are not added up.
  EXPECT_EQ(yieldsOf(80), 0U);
  EXPECT_EQ(yieldsOf(80), 0U);
}

// As many datagrams as fit the default receive buffer of a socket, again and again; what a pump did meanwhile.
class DatagramFlood {
 public:
  DatagramFlood() : bench_(withGro()) {
    bench_.start();
    // The window grows with the bursts.
    for (const uint32_t frames : {32U, 64U, 128U, 256U, 300U}) deliver(frames);
  }
  void deliver(uint32_t frames) {
    sent_ += frames;
    for (uint32_t i = 0; i < frames; ++i) bench_.fill(frame_, 1);
    bench_.rx().publish();
    bench_.rx().notify();
    Bytes got(70'000);
    ASSERT_TRUE(eventually([&] {
      while (::recv(bench_.pods[0].get(), got.data(), got.size(), MSG_DONTWAIT) > 0) {
      }
      return bench_.port->counters().rxFrames == sent_;
    }));
  }

 private:
  static BenchOptions withGro() {
    BenchOptions options;
    options.session.queueSize = 1024;
    options.start.softwareGro = true;
    return options;
  }
  static Bytes datagram() {
    reference::Packet packet;
    packet.udp = true;
    packet.payload = Bytes(60, 7);
    return reference::withHeader({}, packet.build(reference::Checksum::kComplete));
  }

  Bench bench_;
  const Bytes frame_ = datagram();
  uint64_t sent_ = 0;
};

// A yield gives a pod that shares the core one turn at best, in which it may not come to read them all.
TEST(Wakeup, PumpSleepsWhenDatagramsFillThePodsSocketsWhileOthersWantTheCore) {
  DatagramFlood flood;
  crowdUs.store(50);
  const uint32_t restsBefore = rests.load();
  EXPECT_TRUE(eventually([&] {
    flood.deliver(300);
    return rests.load() >= restsBefore + 10;
  }));
  // Alone again it only looks whether it still is.
  crowdUs.store(-1);
  EXPECT_TRUE(eventually([&] {
    const uint32_t yieldsBefore = yields.load();
    const uint32_t restsNow = rests.load();
    for (int i = 0; i < 10; ++i) flood.deliver(300);
    return rests.load() == restsNow && yields.load() >= yieldsBefore + 10;
  }));
  crowdUs.store(0);
}

// Whoever has the core for so long is the very one to sleep for.
TEST(Wakeup, PumpSleepsForTheNextDatagramsWhenItsYieldTookVeryLong) {
  DatagramFlood flood;
  crowdUs.store(15'000);
  const uint32_t restsBefore = rests.load();
  EXPECT_TRUE(eventually([&] {
    flood.deliver(300);
    return rests.load() != restsBefore;
  }));
  crowdUs.store(0);
}

TEST(Wakeup, TimeSliceOfAPumpIsShortWhereTheKernelKnowsIt) {
  utsname kernel{};
  ASSERT_EQ(::uname(&kernel), 0);
  int major = 0;
  int minor = 0;
  ASSERT_EQ(std::sscanf(kernel.release, "%d.%d", &major, &minor), 2);
  const bool known = major > 6 || (major == 6 && minor >= 12);
  // What a thread has that asked for nothing: this one.
  const uint64_t usual = timeSliceNs();
  Bench bench;
  uint64_t ofPump = 0;
  Signal asked;
  ASSERT_TRUE(bench.pumps[0]->post([&] {
    ofPump = timeSliceNs();
    asked.raise();
  }));
  ASSERT_TRUE(asked.wait());
  EXPECT_EQ(ofPump, known ? 100'000 : usual);
}

}  // namespace
}  // namespace vu::test
