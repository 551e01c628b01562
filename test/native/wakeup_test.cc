// What a pump could miss: a frame that comes between its last look at the TAP and its sleep, and one that no call tells
// of while another pod keeps it busy.
//
// A binary of its own: the linker puts __wrap_… in the place of read and readv. Runs in every build.
#include <sys/uio.h>

#include <atomic>
#include <cerrno>

#include "harness.h"

namespace {
// The pod's end of the TAP, which sends a frame when the pump has found the TAP empty so many times.
std::atomic<int> emptyReadsLeft{0};
std::atomic<int> pod{-1};
vu::test::Bytes lateFrame;
// The TAP of a pod that always has another frame.
std::atomic<int> busyTap{-1};
constexpr std::chrono::microseconds kFrameTime{100};
}  // namespace

extern "C" {
ssize_t __real_readv(int fd, const iovec* parts, int count);
ssize_t __wrap_readv(int fd, const iovec* parts, int count);

ssize_t __wrap_readv(int fd, const iovec* parts, int count) {
  const ssize_t got = __real_readv(fd, parts, count);
  if (got >= 0 || errno != EAGAIN) return got;
  if (emptyReadsLeft.load() > 0 && emptyReadsLeft.fetch_sub(1) == 1) {
    EXPECT_GT(::send(pod.load(), lateFrame.data(), lateFrame.size(), MSG_NOSIGNAL), 0);
  }
  errno = EAGAIN;
  return -1;
}

ssize_t __real_read(int fd, void* buffer, size_t bytes);
ssize_t __wrap_read(int fd, void* buffer, size_t bytes);

ssize_t __wrap_read(int fd, void* buffer, size_t bytes) {
  if (fd != busyTap.load()) return __real_read(fd, buffer, bytes);
  const auto end = std::chrono::steady_clock::now() + kFrameTime;
  while (std::chrono::steady_clock::now() < end) {
  }
  return 64;
}
}

namespace vu::test {
namespace {

// The pump asks epoll for events once in 16 rounds of a pair: what it is told then must outlive the round.
TEST(Wakeup, FrameThatComesRightAfterTheTapWasFoundEmptyIsNotLeftBehind) {
  Bench bench;
  bench.start();
  pod.store(bench.pods[0].get());
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
    EXPECT_LT(std::chrono::steady_clock::now() - begun, std::chrono::seconds(3));
    busyTap.store(-1);
  }
  pump.value()->stop();
}

}  // namespace
}  // namespace vu::test
