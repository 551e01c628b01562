// The split virtqueue alone against the model device.
#include "virtq_split.h"

#include <gtest/gtest.h>

#include <random>
#include <thread>

#include "ring_device.h"

namespace vu::test {
namespace {

// One ring in plain memory with 64 bytes of buffer per descriptor.
struct Fixture {
  explicit Fixture(uint32_t size, bool eventIdx)
      : layout(VringLayout::at(0, size)),
        memory(layout.end + uint64_t{64} * size + 4096),
        state(QueueStateLayout::at(0, size, 0).end + 64),
        base(reinterpret_cast<uint8_t*>(alignUp(reinterpret_cast<uintptr_t>(memory.data()), 4096))),
        view(QueueStateView::over(reinterpret_cast<uint8_t*>(alignUp(reinterpret_cast<uintptr_t>(state.data()), 64)),
                                  QueueStateLayout::at(0, size, 0))),
        ring(Vring::over(base, layout, size)) {
    map.add({kLabel, layout.end + uint64_t{64} * size, base});
    queue = SplitVirtq(ring, view, {eventIdx, false});
    queue.initFreeList();
    device = std::make_unique<RingDevice>(ring, map, false, eventIdx, -1, -1);
  }
  uint16_t submit(uint16_t descriptors) {
    std::vector<uint16_t> chain;
    for (uint16_t i = 0; i < descriptors; ++i) chain.push_back(queue.allocate());
    for (size_t i = 0; i < chain.size(); ++i) {
      const bool last = i + 1 == chain.size();
      queue.describe(chain[i], kLabel + layout.end + uint64_t{64} * chain[i], 64, last ? 0 : kDescNext,
                     last ? uint16_t{0} : chain[i + 1]);
    }
    queue.submit(chain[0], descriptors, 64U * descriptors, kNoTail);
    return chain[0];
  }
  static constexpr uint64_t kLabel = 0x10000;
  VringLayout layout;
  std::vector<uint8_t> memory;
  std::vector<uint8_t> state;
  uint8_t* base;
  QueueStateView view;
  Vring ring;
  AddressMap map;
  SplitVirtq queue;
  std::unique_ptr<RingDevice> device;
};

class EverySize : public ::testing::TestWithParam<std::tuple<uint32_t, bool>> {};

TEST_P(EverySize, IndicesWrapThreeTimesAndNothingLeaks) {
  const auto [size, eventIdx] = GetParam();
  Fixture f(size, eventIdx);
  std::mt19937 random(size);
  uint64_t submitted = 0;
  uint64_t completed = 0;
  uint32_t held = 0;
  std::vector<Chain> inDevice;
  while (completed < 3 * 65536 + 17) {
    const auto burst = random() % 40 + 1;
    for (uint64_t i = 0; i < burst; ++i) {
      const auto want = static_cast<uint16_t>(random() % 3 + 1);
      if (f.queue.freeCount() < want) break;
      f.submit(want);
      held += want;
      ++submitted;
    }
    f.queue.publish();
    f.queue.shouldKick();
    Chain chain;
    while (f.device->pop(chain)) inDevice.push_back(chain);
    // Out of order, and not all of them.
    for (auto i = random() % 60; i > 0 && !inDevice.empty(); --i) {
      const size_t pick = random() % std::min<size_t>(inDevice.size(), 8);
      f.device->push(inDevice[pick].head, 0);
      inDevice.erase(inDevice.begin() + static_cast<long>(pick));
    }
    f.device->publish();
    UsedHead used;
    while (f.queue.take(used) == SplitVirtq::Take::kTaken) {
      f.queue.release(used.head, used.chain);
      held -= used.chain;
      ++completed;
    }
    ASSERT_EQ(f.queue.broken(), nullptr);
    ASSERT_EQ(f.queue.freeCount() + held, size);
    ASSERT_EQ(f.queue.outstanding(), submitted - completed);
  }
  EXPECT_EQ(f.device->violation(), "");
}

INSTANTIATE_TEST_SUITE_P(Split, EverySize,
                         ::testing::Combine(::testing::Values(64U, 256U, 4096U, 32768U), ::testing::Bool()));

TEST(VringLayout, IsWhereDpdkPutsIt) {
  const VringLayout layout = VringLayout::at(0, 256);
  EXPECT_EQ(layout.avail, 0x1000U);
  EXPECT_EQ(layout.used, 0x2000U);
  EXPECT_EQ(layout.end, 0x3000U);
  for (uint32_t size = 2; size <= 32768; size *= 2) {
    const VringLayout any = VringLayout::at(4096, size);
    EXPECT_LE(any.avail + 4 + 2 * size + 2, any.used) << "used_event of ring " << size << " lies in the used ring";
  }
}

TEST(SplitVirtq, DescriptorsAreReusedLastInFirstOut) {
  Fixture f(64, true);
  const uint16_t first = f.submit(2);
  f.queue.publish();
  Chain chain;
  ASSERT_TRUE(f.device->pop(chain));
  f.device->push(chain.head, 0);
  f.device->publish();
  UsedHead used;
  ASSERT_EQ(f.queue.take(used), SplitVirtq::Take::kTaken);
  f.queue.release(used.head, used.chain);
  EXPECT_EQ(f.queue.peekFree(), first);
}

TEST(SplitVirtq, NothingIsAvailableBeforePublish) {
  Fixture f(64, false);
  f.submit(1);
  EXPECT_EQ(f.device->available(), 0);
  f.queue.publish();
  EXPECT_EQ(f.device->available(), 1);
}

TEST(SplitVirtq, NoNotifyFlagSuppressesKicks) {
  Fixture f(64, false);
  f.device->suppressKicks();
  f.submit(1);
  f.queue.publish();
  EXPECT_FALSE(f.queue.shouldKick());
  f.device->armKicks();
  f.submit(1);
  f.queue.publish();
  EXPECT_TRUE(f.queue.shouldKick());
}

TEST(SplitVirtq, EventIndexAsksForExactlyOneKick) {
  Fixture f(64, true);
  f.device->armKicks();
  f.submit(1);
  f.queue.publish();
  EXPECT_TRUE(f.queue.shouldKick());
  f.submit(1);
  f.queue.publish();
  EXPECT_FALSE(f.queue.shouldKick()) << "the event index was passed already";
}

TEST(SplitVirtq, ChainThatIsReleasedIsNotTakenAgain) {
  Fixture f(64, true);
  f.submit(1);
  f.submit(1);
  f.queue.publish();
  Chain chain;
  ASSERT_TRUE(f.device->pop(chain));
  f.device->forgeUsed(0, chain.head, 0);
  f.device->forgeUsed(1, chain.head, 0);
  f.device->forgeUsedIndex(2);
  UsedHead used;
  ASSERT_EQ(f.queue.take(used), SplitVirtq::Take::kTaken);
  EXPECT_EQ(f.queue.take(used), SplitVirtq::Take::kBroken);
  EXPECT_STREQ(f.queue.broken(), "used id is not outstanding");
}

// Two threads that only look when told to: a lost notification stops them for good.
void pingPong(bool eventIdx) {
  constexpr uint32_t kTotal = 200'000;
  Fixture f(64, eventIdx);
  std::atomic<uint64_t> kicks{1};
  std::atomic<uint64_t> calls{0};
  std::atomic<bool> lost{false};
  const auto waitFor = [&](std::atomic<uint64_t>& counter, uint64_t& seen) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (counter.load(std::memory_order_acquire) == seen) {
      if (lost.load() || std::chrono::steady_clock::now() > end) {
        lost.store(true);
        return;
      }
      std::this_thread::yield();
    }
    seen = counter.load(std::memory_order_acquire);
  };
  std::thread device([&] {
    uint64_t seen = 0;
    uint32_t done = 0;
    std::mt19937 random(1);
    while (done < kTotal && !lost.load()) {
      waitFor(kicks, seen);
      do {
        Chain chain;
        f.device->suppressKicks();
        while (f.device->pop(chain)) {
          f.device->push(chain.head, 0);
          ++done;
          if (random() % 4 == 0) {
            f.device->publish();
            if (f.device->notify()) calls.fetch_add(1, std::memory_order_release);
          }
        }
        f.device->publish();
        if (f.device->notify()) calls.fetch_add(1, std::memory_order_release);
      } while (f.device->armKicks());
    }
  });
  uint64_t seen = 0;
  uint32_t sent = 0;
  uint32_t taken = 0;
  std::mt19937 random(2);
  while (taken < kTotal && !lost.load()) {
    for (auto i = random() % 8 + 1; i > 0 && sent < kTotal && f.queue.freeCount() != 0; --i, ++sent) f.submit(1);
    if (f.queue.unpublished() != 0) {
      f.queue.publish();
      if (f.queue.shouldKick()) kicks.fetch_add(1, std::memory_order_release);
    }
    f.queue.disableCalls();
    UsedHead used;
    while (f.queue.take(used) == SplitVirtq::Take::kTaken) {
      f.queue.release(used.head, used.chain);
      ++taken;
    }
    if (taken == kTotal || (f.queue.freeCount() != 0 && sent < kTotal)) continue;
    f.queue.enableCalls(0);
    if (!f.queue.usedPending()) waitFor(calls, seen);
  }
  device.join();
  EXPECT_FALSE(lost.load()) << "both sides slept: a notification was lost";
  EXPECT_EQ(taken, kTotal);
  EXPECT_EQ(f.device->violation(), "");
}

TEST(SplitVirtq, FlagSuppressionNeverLosesAWakeUp) { pingPong(false); }
TEST(SplitVirtq, EventIndexSuppressionNeverLosesAWakeUp) { pingPong(true); }

TEST(AddressMap, HoldsEightRegionsAndGivesNothingAcrossTheirEnds) {
  AddressMap map;
  std::vector<uint8_t> host(8 * 100);
  for (uint32_t i = 0; i < 8; ++i) EXPECT_TRUE(map.add({0x1000U * (i + 1), 100, host.data() + 100 * i}));
  EXPECT_FALSE(map.add({0x100000, 100, host.data()}));
  EXPECT_EQ(map.host(0x3000, 100), host.data() + 200);
  EXPECT_EQ(map.host(0x3001, 100), nullptr);
  EXPECT_EQ(map.host(0x3064, 1), nullptr);
  EXPECT_EQ(map.host(0x3000, UINT64_MAX), nullptr);
  EXPECT_EQ(map.host(0xfff, 1), nullptr);
}

}  // namespace
}  // namespace vu::test
