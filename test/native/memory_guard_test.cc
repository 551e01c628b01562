// Shared memory that a backend takes away costs its own port, and not the process (F38).
#include "memory_guard.h"

#include <sys/mman.h>
#include <sys/syscall.h>

#include "harness.h"

namespace vu::test {
namespace {

constexpr size_t kPage = 4096;

UniqueFd fileOf(size_t bytes) {
  UniqueFd fd(::memfd_create("vu-test", MFD_CLOEXEC));
  EXPECT_EQ(::ftruncate(fd.get(), static_cast<off_t>(bytes)), 0);
  return fd;
}

TEST(MemoryGuard, F38_AnAccessThatFindsNothingFindsZerosAndIsRemembered) {
  const UniqueFd file = fileOf(4 * kPage);
  auto mapping = Mapping::shared(file.get(), 4 * kPage, "mmap");
  ASSERT_TRUE(mapping.ok());
  volatile uint8_t* const bytes = mapping.value().data();
  std::atomic<bool> lost{false};
  const MemoryGuard guard(mapping.value().data(), 4 * kPage, kPage, &lost);
  bytes[kPage] = 7;
  EXPECT_FALSE(lost.load());
  ASSERT_EQ(::ftruncate(file.get(), 2 * kPage), 0);
  EXPECT_EQ(bytes[2 * kPage + 5], 0);
  EXPECT_TRUE(lost.load());
  bytes[3 * kPage] = 9;
  EXPECT_EQ(bytes[3 * kPage], 9);
  EXPECT_EQ(bytes[kPage], 7);
}

TEST(MemoryGuardDeathTest, F38_ASignalOfNoGuardedMemoryEndsTheProcessAsBefore) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  std::atomic<bool> lost{false};
  const UniqueFd file = fileOf(kPage);
  auto guarded = Mapping::shared(file.get(), kPage, "mmap");
  ASSERT_TRUE(guarded.ok());
  const MemoryGuard guard(guarded.value().data(), kPage, kPage, &lost);
  const UniqueFd empty = fileOf(0);
  auto mapping = Mapping::shared(empty.get(), kPage, "mmap");
  ASSERT_TRUE(mapping.ok());
  EXPECT_DEATH(*static_cast<volatile uint8_t*>(mapping.value().data()) = 1, "");
  EXPECT_DEATH(::raise(SIGBUS), "");
  mapping.value().reset();
}

class LostMemory : public ::testing::TestWithParam<RingCase> {
 protected:
  LostMemory() : options_(benchOptions(GetParam())) {
    auto made = Pump::create("vu-lost", 0);
    EXPECT_TRUE(made.ok());
    options_.sharedPump = std::move(made).value();
    hostile = std::make_unique<Bench>(options_);
    neighbour = std::make_unique<Bench>(options_);
    hostile->start();
    neighbour->start();
    hostile->expectPassed(plainFrame(60, 1));
  }
  ~LostMemory() override {
    hostile.reset();
    neighbour.reset();
    options_.sharedPump->stop();
  }
  // What huge pages do when there is none for a hole, without any: behind the end of a file is nothing either. By the
  // bare call: to ThreadSanitizer mmap() is a write of ours, and this stands for what another process does.
  void takeAway(uint64_t offset, uint64_t bytes) {
    const UniqueFd empty = fileOf(0);
    uint8_t* const at = hostile->session->base() + offset;
    constexpr int kProtection = PROT_READ | PROT_WRITE;
    ASSERT_EQ(::syscall(SYS_mmap, at, bytes, kProtection, MAP_SHARED | MAP_FIXED, empty.get(), 0),
              reinterpret_cast<long>(at));
  }
  void expectLostAlone() {
    ASSERT_TRUE(hostile->corruption->signal.wait());
    EXPECT_EQ(hostile->corruption->events[0].first, PortEventKind::kMemoryLost);
    neighbour->expectPassed(plainFrame(60, 1));
    hostile->quiesce();
    hostile->newSession();
    hostile->start();
    hostile->send(plainFrame(60, 9));
    Chain chain;
    do {
      ASSERT_TRUE(hostile->await(chain));
    } while (gather(chain) != plainFrame(60, 9));
    EXPECT_EQ(hostile->corruption->signal.count(), 1);
  }

  BenchOptions options_;
  std::unique_ptr<Bench> hostile;
  std::unique_ptr<Bench> neighbour;
};
INSTANTIATE_TEST_SUITE_P(Rings, LostMemory, ::testing::ValuesIn(ringCases()), ringCaseName);

TEST_P(LostMemory, F38_OfTheRingsBreaksThePortAndNoOther) {
  takeAway(0, hostile->session->rxOffset(0));
  hostile->send(plainFrame(60, 2));
  expectLostAlone();
}

TEST_P(LostMemory, F38_OfTransmitBuffersBreaksThePortAndNoOther) {
  const Session& session = *hostile->session;
  takeAway(session.txHeadOffset(0), session.memoryBytes() - session.txHeadOffset(0));
  hostile->send(plainFrame(60, 2));
  expectLostAlone();
}

TEST_P(LostMemory, F38_OfAReceiveBufferBreaksThePortAndNoOther) {
  hostile->fill(plainFrame(60, 2), 1);
  takeAway(hostile->session->rxOffset(0), kPage);
  hostile->rx().publish();
  hostile->rx().notify();
  expectLostAlone();
}

}  // namespace
}  // namespace vu::test
