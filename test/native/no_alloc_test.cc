// A million packets through a port without one allocation, lock or freed block on the pump thread.
//
// A binary of its own: it replaces malloc, free and pthread_mutex_lock for the whole process. Not for sanitizer builds.
#include <dlfcn.h>
#include <pthread.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>

#include "harness.h"
#include "tcp_frames.h"

extern "C" {
void* __libc_malloc(size_t);
void __libc_free(void*);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);
}

namespace {
std::atomic<bool> watching{false};
std::atomic<uint64_t> allocations{0};
std::atomic<uint64_t> frees{0};
std::atomic<uint64_t> locks{0};
thread_local bool ownThread = false;  // The test's own thread is not watched.

bool watched() { return watching.load(std::memory_order_relaxed) && !ownThread; }
}  // namespace

extern "C" {
void* malloc(size_t bytes) {
  if (watched()) allocations.fetch_add(1);
  return __libc_malloc(bytes);
}
void* calloc(size_t count, size_t bytes) {
  if (watched()) allocations.fetch_add(1);
  return __libc_calloc(count, bytes);
}
void* realloc(void* block, size_t bytes) {
  if (watched()) allocations.fetch_add(1);
  return __libc_realloc(block, bytes);
}
void* aligned_alloc(size_t alignment, size_t bytes) {
  if (watched()) allocations.fetch_add(1);
  return __libc_memalign(alignment, bytes);
}
int posix_memalign(void** block, size_t alignment, size_t bytes) {
  if (watched()) allocations.fetch_add(1);
  void* made = __libc_memalign(alignment, bytes);
  if (made == nullptr) return ENOMEM;
  *block = made;
  return 0;
}
void free(void* block) {
  if (watched()) frees.fetch_add(1);
  __libc_free(block);
}
int pthread_mutex_lock(pthread_mutex_t* mutex) {
  using Lock = int (*)(pthread_mutex_t*);
  static std::atomic<Lock> real{nullptr};
  Lock lock = real.load(std::memory_order_acquire);
  if (lock == nullptr) {
    lock = reinterpret_cast<Lock>(dlsym(RTLD_NEXT, "pthread_mutex_lock"));
    real.store(lock, std::memory_order_release);
  }
  if (watched()) locks.fetch_add(1);
  return lock(mutex);
}
}

namespace vu::test {
namespace {

TEST(NoAlloc, TheWatchSeesAllocationsAndLocksOfOtherThreads) {
  ownThread = true;
  std::mutex mutex;
  std::atomic<int> step{0};
  std::thread other([&] {
    while (step.load() != 1) std::this_thread::yield();
    void* volatile block = std::malloc(100);
    std::free(block);
    void* volatile aligned = std::aligned_alloc(64, 128);
    std::free(aligned);
    void* page = nullptr;
    const int failed = ::posix_memalign(&page, 4096, 4096);
    void* volatile pageBlock = failed == 0 ? page : nullptr;
    std::free(pageBlock);
    const std::lock_guard guard(mutex);
    step.store(2);
  });
  watching.store(true);
  step.store(1);
  while (step.load() != 2) std::this_thread::yield();
  watching.store(false);
  other.join();
  EXPECT_GE(allocations.exchange(0), 3U);
  EXPECT_GE(frees.exchange(0), 3U);
  EXPECT_GE(locks.exchange(0), 1U);
}

class EveryRing : public ::testing::TestWithParam<RingCase> {};

INSTANTIATE_TEST_SUITE_P(Rings, EveryRing,
                         ::testing::Values(RingCase{false, true, false}, RingCase{true, true, false},
                                           RingCase{true, true, true}),
                         ringCaseName);

// Completes what the pump has sent. Returns the number of chains.
uint64_t takeSent(Bench& bench, Chain& chain) {
  uint64_t chains = 0;
  for (; bench.tx().pop(chain); ++chains) bench.tx().push(chain.head, 0);
  bench.tx().publish();
  bench.tx().notify();
  return chains;
}

template <typename Work>
void expectNothingDuring(const Work& work) {
  watching.store(true);
  work();
  watching.store(false);
  EXPECT_EQ(allocations.load(), 0U);
  EXPECT_EQ(frees.load(), 0U);
  EXPECT_EQ(locks.load(), 0U);
}

TEST_P(EveryRing, AMillionPacketsAllocateNothingAndLockNothing) {
  ownThread = true;
  BenchOptions options = benchOptions(GetParam());
  options.spinUs = 50;
  Bench bench(options);
  bench.start();
  const Bytes small = plainFrame(60, 1);
  const Bytes large = plainFrame(6000, 2);
  Bytes incoming(70'000);
  Chain chain;
  const auto pass = [&](uint64_t total) {
    uint64_t sent = 0;
    uint64_t popped = 0;
    uint64_t filled = 0;
    uint64_t received = 0;
    while (popped < total / 2 || received < total / 2) {
      for (int i = 0; i < 32 && sent < total / 2; ++i) {
        const Bytes& frame = sent % 8 == 0 ? large : small;
        if (::send(bench.pods[0].get(), frame.data(), frame.size(), MSG_NOSIGNAL) < 0) break;
        ++sent;
      }
      popped += takeSent(bench, chain);
      while (filled < total / 2 && filled - received < 64 && bench.rx().pop(chain)) {
        std::memset(chain.segments[0].host, 0, 12);
        chain.segments[0].host[10] = 1;
        bench.rx().push(chain.head, 80);
        ++filled;
      }
      bench.rx().publish();
      bench.rx().notify();
      while (::recv(bench.pods[0].get(), incoming.data(), incoming.size(), 0) > 0) ++received;
    }
  };
  pass(2000);
  expectNothingDuring([&] { pass(1'000'000); });
  const CounterTotals totals = bench.counters();
  EXPECT_EQ(totals.txFrames, 501'000U);
  EXPECT_EQ(totals.rxFrames, 501'000U);
  bench.expectLawful();
}

// Segmentation, checksums and coalescing at work on every frame.
TEST_P(EveryRing, AMillionSegmentsMadeAndMergedInSoftwareAllocateNothingAndLockNothing) {
  ownThread = true;
  BenchOptions options = benchOptions(GetParam(), kFeatureVersion1 | kFeatureMrgRxbuf | kFeatureEventIdx);
  options.spinUs = 50;
  options.start.softwareGso = true;
  options.start.softwareChecksum = true;
  options.start.softwareGro = true;
  Bench bench(options);
  bench.start();
  constexpr uint32_t kPayload = 1000;
  constexpr uint32_t kSegments = 8;
  const Bytes large = tcpFrame({.payload = kSegments * kPayload, .gsoSize = kPayload});
  const size_t headers = large.size() - kSegments * kPayload;
  std::vector<Bytes> run;
  for (uint32_t i = 0; i < 64; ++i) {
    run.push_back(tcpFrame({.payload = kPayload, .seq = i * kPayload, .checksummed = true}));
    run.back()[10] = 1;
  }
  Bytes incoming(70'000);
  Chain chain;
  const auto pass = [&](uint64_t total) {
    uint64_t sent = 0;
    uint64_t popped = 0;
    uint64_t filled = 0;
    uint64_t received = 0;
    while (popped < total / 2 || received < total / 2) {
      for (int i = 0; i < 8 && sent < total / 2; ++i) {
        if (::send(bench.pods[0].get(), large.data(), large.size(), MSG_NOSIGNAL) < 0) break;
        sent += kSegments;
      }
      popped += takeSent(bench, chain);
      while (filled < total / 2 && filled - received < 128 && bench.rx().pop(chain)) {
        const Bytes& frame = run[filled % run.size()];
        std::memcpy(chain.segments[0].host, frame.data(), frame.size());
        bench.rx().push(chain.head, static_cast<uint32_t>(frame.size()));
        ++filled;
      }
      bench.rx().publish();
      bench.rx().notify();
      ssize_t got = 0;
      while ((got = ::recv(bench.pods[0].get(), incoming.data(), incoming.size(), 0)) > 0) {
        received += (static_cast<size_t>(got) - headers) / kPayload;
      }
    }
  };
  pass(16'000);
  expectNothingDuring([&] { pass(1'000'000); });
  const CounterTotals totals = bench.counters();
  EXPECT_EQ(totals.event(Event::kGsoSegments), 508'000U);
  EXPECT_EQ(totals.event(Event::kGsoFrames), 508'000U / kSegments);
  EXPECT_EQ(totals.rxFrames, 508'000U);
  EXPECT_GE(totals.event(Event::kGroMerged), 100'000U);
  bench.expectLawful();
}

}  // namespace
}  // namespace vu::test
