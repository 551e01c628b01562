// A frame that comes in the moment between the pump's last look at the TAP and its sleep.
//
// A binary of its own: the linker puts __wrap_readv in the place of readv. Runs in every build.
#include <sys/uio.h>

#include <atomic>
#include <cerrno>

#include "harness.h"

namespace {
// The pod's end of the TAP, which sends a frame when the pump has found the TAP empty so many times.
std::atomic<int> emptyReadsLeft{0};
std::atomic<int> pod{-1};
vu::test::Bytes lateFrame;
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

}  // namespace
}  // namespace vu::test
