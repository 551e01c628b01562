// The virtqueue alone, split and packed, against the model devices.
#include "virtq.h"

#include <gtest/gtest.h>

#include <chrono>
#include <deque>
#include <random>
#include <thread>

#include "ring_device.h"

namespace vu::test {
namespace {

struct VirtqCase {
  bool packed = false;
  bool eventIdx = false;
  bool inOrder = false;

  VirtqFeatures features() const { return {eventIdx, inOrder}; }
  std::string name() const {
    return std::string(packed ? "packed" : "split") + (eventIdx ? "_event_idx" : "_flags") +
           (inOrder ? "_in_order" : "_any_order");
  }
};

std::vector<VirtqCase> everyCase() {
  std::vector<VirtqCase> cases;
  for (const bool packed : {false, true}) {
    for (const bool eventIdx : {false, true}) {
      for (const bool inOrder : {false, true}) cases.push_back({packed, eventIdx, inOrder});
    }
  }
  return cases;
}

// One ring in plain memory with 64 bytes of buffer per descriptor.
struct Fixture {
  Fixture(uint32_t size, const VirtqCase& which)
      : layout(which.packed ? packedLayoutAt(0, size) : VringLayout::at(0, size)),
        memory(layout.end + uint64_t{64} * size + 4096),
        state(QueueStateLayout::at(0, size, 0).end + 64),
        base(reinterpret_cast<uint8_t*>(alignUp(reinterpret_cast<uintptr_t>(memory.data()), 4096))),
        view(QueueStateView::over(reinterpret_cast<uint8_t*>(alignUp(reinterpret_cast<uintptr_t>(state.data()), 64)),
                                  QueueStateLayout::at(0, size, 0))) {
    map.add({kLabel, layout.end + uint64_t{64} * size, base});
    const DeviceSetup setup{map, false, which.features()};
    if (which.packed) {
      const PackedRing ring = PackedRing::over(base, layout, size);
      view.queue->availIdx = kPackedStart;
      view.queue->lastUsed = kPackedStart;
      queue = Virtq(PackedVirtq(ring, view, which.features()));
      auto made = std::make_unique<PackedDevice>(ring, setup);
      packedDevice = made.get();
      device = std::move(made);
    } else {
      const Vring ring = Vring::over(base, layout, size);
      queue = Virtq(SplitVirtq(ring, view, which.features()));
      auto made = std::make_unique<SplitDevice>(ring, setup);
      splitDevice = made.get();
      device = std::move(made);
    }
    queue.initFreeList();
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
  Chain submitAndPop(uint16_t descriptors) {
    submit(descriptors);
    queue.publish();
    Chain chain;
    EXPECT_TRUE(device->pop(chain));
    return chain;
  }
  void complete(const Chain& chain) {
    device->push(chain.head, 0);
    device->publish();
  }
  // Takes and releases; the number of chains.
  uint32_t reap() {
    UsedHead used;
    uint32_t chains = 0;
    while (queue.take(used) == Virtq::Take::kTaken) {
      queue.release(used.head, used.chain);
      ++chains;
    }
    return chains;
  }
  static constexpr uint64_t kLabel = 0x10000;
  VringLayout layout;
  std::vector<uint8_t> memory;
  std::vector<uint8_t> state;
  uint8_t* base;
  QueueStateView view;
  AddressMap map;
  Virtq queue;
  std::unique_ptr<RingDevice> device;
  SplitDevice* splitDevice = nullptr;
  PackedDevice* packedDevice = nullptr;
};

// Chains of random length, completed in random order (or in order, in batches), until the positions have wrapped.
void wrapThreeTimes(uint32_t size, const VirtqCase& which, uint32_t longest, uint64_t total) {
  Fixture f(size, which);
  std::mt19937 random(size);
  uint64_t submitted = 0;
  uint64_t completed = 0;
  uint32_t held = 0;
  std::deque<Chain> inDevice;
  while (completed < total) {
    const auto burst = random() % 40 + 1;
    for (uint64_t i = 0; i < burst; ++i) {
      const auto want = static_cast<uint16_t>(random() % longest + 1);
      if (f.queue.freeCount() < want) break;
      f.submit(want);
      held += want;
      ++submitted;
    }
    f.queue.publish();
    f.queue.shouldKick();
    Chain chain;
    while (f.device->pop(chain)) inDevice.push_back(chain);
    for (auto i = random() % 60; i > 0 && !inDevice.empty(); --i) {
      const size_t pick = which.inOrder ? 0 : random() % std::min<size_t>(inDevice.size(), 8);
      f.device->push(inDevice[pick].head, 0);
      inDevice.erase(inDevice.begin() + static_cast<long>(pick));
      if (random() % 16 == 0) f.device->publish();
    }
    f.device->publish();
    const uint16_t stops = f.queue.deviceUsed();
    UsedHead used;
    while (f.queue.take(used) == Virtq::Take::kTaken) {
      f.queue.release(used.head, used.chain);
      held -= used.chain;
      ++completed;
    }
    ASSERT_EQ(f.queue.broken(), nullptr);
    ASSERT_EQ(f.queue.freeCount() + held, size);
    ASSERT_EQ(f.queue.outstanding(), submitted - completed);
    ASSERT_EQ(f.queue.outstanding(), inDevice.size());
    ASSERT_EQ(f.view.queue->lastUsed, stops) << "deviceUsed() did not foresee where taking would end";
  }
  EXPECT_EQ(f.device->violation(), "");
}

class EverySize : public ::testing::TestWithParam<std::tuple<VirtqCase, uint32_t>> {};

TEST_P(EverySize, S51_S52_S57_PositionsWrapThreeTimesAndNothingLeaks) {
  const auto& [which, size] = GetParam();
  wrapThreeTimes(size, which, size == 2 ? 2 : 3, 3 * 65536 + 17);
}

const auto sizedName = [](const auto& info) {
  return std::get<0>(info.param).name() + "_" + std::to_string(std::get<1>(info.param));
};

INSTANTIATE_TEST_SUITE_P(Rings, EverySize,
                         ::testing::Combine(::testing::ValuesIn(everyCase()),
                                            ::testing::Values(2U, 64U, 256U, 4096U, 32768U)),
                         sizedName);

// Only packed rings may have any size: then no chain length divides it and every slot is once the last of a lap.
class OddSize : public ::testing::TestWithParam<std::tuple<VirtqCase, uint32_t>> {};

TEST_P(OddSize, S52_WrapCounterTogglesInsideChains) {
  const auto& [which, size] = GetParam();
  wrapThreeTimes(size, which, 5, 20'000);
}

TEST_P(OddSize, S52_ChainsOfOneLengthPassTheEndAtEverySlot) {
  const auto& [which, size] = GetParam();
  for (const uint16_t length : std::initializer_list<uint16_t>{1, 2, 3, 5}) {
    Fixture f(size, which);
    for (uint32_t i = 0; i < 4 * size; ++i) {
      const Chain chain = f.submitAndPop(length);
      ASSERT_EQ(chain.segments.size(), length);
      f.complete(chain);
      ASSERT_EQ(f.reap(), 1U);
      const uint32_t slots = (i + 1) * length;
      const auto cursor = static_cast<uint16_t>(slots % size | (slots / size % 2 == 0 ? 0x8000U : 0U));
      ASSERT_EQ(f.view.queue->lastUsed, cursor);
      ASSERT_EQ(f.view.queue->availIdx, cursor);
    }
    EXPECT_EQ(f.device->violation(), "");
  }
}

INSTANTIATE_TEST_SUITE_P(Rings, OddSize,
                         ::testing::Combine(::testing::Values(VirtqCase{true, false, false},
                                                              VirtqCase{true, true, false},
                                                              VirtqCase{true, true, true}),
                                            ::testing::Values(5U, 7U, 64U, 65U, 127U)),
                         sizedName);

TEST(VringLayout, IsWhereDpdkPutsIt) {
  const VringLayout layout = VringLayout::at(0, 256);
  EXPECT_EQ(layout.avail, 0x1000U);
  EXPECT_EQ(layout.used, 0x2000U);
  EXPECT_EQ(layout.end, 0x3000U);
  for (uint32_t size = 2; size <= 32768; size *= 2) {
    const VringLayout any = VringLayout::at(4096, size);
    EXPECT_LE(any.avail + 4 + 2 * size + 2, any.used) << "used_event of ring " << size << " lies in the used ring";
    const VringLayout packed = packedLayoutAt(4096, size);
    EXPECT_EQ(packed.avail, 4096 + 16 * size);
    EXPECT_EQ(packed.used, (packed.avail + 4 + 4095) / 4096 * 4096);
    EXPECT_GE(packed.end, packed.used + 4);
  }
}

class EveryVirtq : public ::testing::TestWithParam<VirtqCase> {
 protected:
  Fixture f{64, GetParam()};
};

INSTANTIATE_TEST_SUITE_P(Rings, EveryVirtq, ::testing::ValuesIn(everyCase()),
                         [](const auto& info) { return info.param.name(); });

TEST_P(EveryVirtq, BuffersAreReusedLastInFirstOut) {
  const Chain chain = f.submitAndPop(2);
  f.complete(chain);
  ASSERT_EQ(f.reap(), 1U);
  EXPECT_EQ(f.queue.peekFree(), chain.head);
}

TEST_P(EveryVirtq, S51_S52_NothingIsAvailableBeforePublish) {
  f.submit(1);
  f.submit(3);
  EXPECT_EQ(f.device->available(), 0);
  Chain chain;
  EXPECT_FALSE(f.device->pop(chain));
  f.queue.publish();
  EXPECT_EQ(f.device->available(), 2);
}

TEST_P(EveryVirtq, S53_NoKickWhileTheDevicePolls) {
  if (!GetParam().packed && GetParam().eventIdx) f.submitAndPop(1);
  f.device->suppressKicks();
  if (!GetParam().packed && GetParam().eventIdx) f.queue.shouldKick();
  f.submit(1);
  f.queue.publish();
  EXPECT_FALSE(f.queue.shouldKick());
  Chain chain;
  while (f.device->pop(chain)) {
  }
  f.device->armKicks();
  f.submit(1);
  f.queue.publish();
  EXPECT_TRUE(f.queue.shouldKick());
}

TEST_P(EveryVirtq, S53_EventIndexAsksForExactlyOneKick) {
  f.device->armKicks();
  f.submit(1);
  f.queue.publish();
  EXPECT_TRUE(f.queue.shouldKick());
  f.submit(1);
  f.queue.publish();
  EXPECT_EQ(f.queue.shouldKick(), !GetParam().eventIdx) << "the event was passed already";
}

TEST_P(EveryVirtq, S53_KickIsAskedForAtEveryPositionOfTheRing) {
  for (uint32_t i = 0; i < 200; ++i) {
    const uint16_t length = static_cast<uint16_t>(i % 3 + 1);
    f.device->armKicks();
    f.submit(length);
    f.queue.publish();
    ASSERT_TRUE(f.queue.shouldKick()) << "round " << i;
    Chain chain;
    ASSERT_TRUE(f.device->pop(chain));
    f.complete(chain);
    ASSERT_EQ(f.reap(), 1U);
  }
}

TEST_P(EveryVirtq, S53_CallComesOnlyWhenItWasAskedFor) {
  f.queue.startWithoutCalls();
  f.complete(f.submitAndPop(1));
  EXPECT_FALSE(f.device->notify());
  EXPECT_TRUE(f.queue.usedPending());
  ASSERT_EQ(f.reap(), 1U);
  EXPECT_FALSE(f.queue.usedPending());
  for (uint32_t i = 0; i < 200; ++i) {
    f.queue.enableCalls(0);
    ASSERT_FALSE(f.queue.usedPending());
    f.complete(f.submitAndPop(static_cast<uint16_t>(i % 3 + 1)));
    ASSERT_TRUE(f.device->notify()) << "round " << i;
    f.queue.disableCalls();
    ASSERT_EQ(f.reap(), 1U);
  }
  EXPECT_EQ(f.device->violation(), "");
}

TEST_P(EveryVirtq, S53_DelayedCallComesAtTheLatestWhenThatManyAreUsed) {
  std::deque<Chain> inDevice;
  for (int i = 0; i < 30; ++i) inDevice.push_back(f.submitAndPop(2));
  f.queue.enableCalls(15);
  bool called = false;
  for (int used = 0; used < 16 && !called; ++used) {
    f.complete(inDevice.front());
    inDevice.pop_front();
    called = f.device->notify();
  }
  EXPECT_TRUE(called);
}

TEST_P(EveryVirtq, S55_ChainThatIsReleasedIsNotTakenAgain) {
  f.submit(1);
  f.submit(1);
  f.queue.publish();
  Chain chain;
  ASSERT_TRUE(f.device->pop(chain));
  f.device->forge(chain.head, 0);
  f.device->forge(chain.head, 0);
  f.device->publish();
  UsedHead used;
  ASSERT_EQ(f.queue.take(used), Virtq::Take::kTaken);
  EXPECT_EQ(f.queue.take(used), Virtq::Take::kBroken);
  EXPECT_STREQ(f.queue.broken(), "used id is not outstanding");
  EXPECT_EQ(f.queue.take(used), Virtq::Take::kBroken);
}

TEST_P(EveryVirtq, S55_IdBeyondTheRingBreaksTheQueue) {
  f.submitAndPop(1);
  f.device->forge(64, 0);
  f.device->publish();
  UsedHead used;
  EXPECT_EQ(f.queue.take(used), Virtq::Take::kBroken);
  EXPECT_STREQ(f.queue.broken(), "used id is not a descriptor of the ring");
  EXPECT_EQ(f.queue.outstanding(), 1);
}

TEST_P(EveryVirtq, S55_MoreUsedThanOutstandingBreaksTheQueue) {
  f.complete(f.submitAndPop(1));
  ASSERT_EQ(f.reap(), 1U);
  f.device->forge(0, 0);
  f.device->publish();
  UsedHead used;
  EXPECT_EQ(f.queue.take(used), Virtq::Take::kBroken);
  EXPECT_STREQ(f.queue.broken(), GetParam().packed ? "used descriptor while nothing is outstanding"
                                                   : "used index moved by more than what is outstanding");
}

TEST_P(EveryVirtq, S55_WhatWasNotPublishedCannotBeUsed) {
  const uint16_t head = f.submit(1);
  f.device->forge(head, 0);
  f.device->publish();
  UsedHead used;
  EXPECT_EQ(f.queue.take(used), Virtq::Take::kBroken);
  EXPECT_EQ(f.queue.outstanding(), 1);
}

class InOrder : public ::testing::TestWithParam<bool> {
 protected:
  Fixture f{64, VirtqCase{GetParam(), true, true}};
};

INSTANTIATE_TEST_SUITE_P(Rings, InOrder, ::testing::Bool(),
                         [](const auto& info) { return std::string(info.param ? "packed" : "split"); });

TEST_P(InOrder, OneUsedElementCompletesABatchWithTheLengthsThatItLeavesOut) {
  std::vector<Chain> chains;
  for (uint16_t i = 0; i < 5; ++i) chains.push_back(f.submitAndPop(static_cast<uint16_t>(i % 3 + 1)));
  for (const Chain& chain : chains) f.device->push(chain.head, 7);
  f.device->publish();
  EXPECT_TRUE(f.queue.usedPending());
  for (size_t i = 0; i < chains.size(); ++i) {
    UsedHead used;
    ASSERT_EQ(f.queue.take(used), Virtq::Take::kTaken);
    EXPECT_EQ(used.head, chains[i].head);
    EXPECT_EQ(used.chain, chains[i].segments.size());
    EXPECT_EQ(used.len, i == 4 ? 7 : chains[i].bytes()) << "skipped elements mean: used completely";
    EXPECT_EQ(f.queue.usedPending(), i != 4);
  }
  UsedHead used;
  EXPECT_EQ(f.queue.take(used), Virtq::Take::kNone);
}

TEST_P(InOrder, SkippedElementsOfTheRingAreNeverRead) {
  // A lap of garbage first: whatever the skipped places hold is stale.
  for (int i = 0; i < 64; ++i) {
    f.complete(f.submitAndPop(1));
    ASSERT_EQ(f.reap(), 1U);
  }
  std::vector<Chain> chains;
  for (int i = 0; i < 8; ++i) chains.push_back(f.submitAndPop(1));
  for (uint32_t i = 1; i < 8; ++i) {
    if (GetParam()) {
      PackedDesc& desc = PackedRing::over(f.base, f.layout, 64).desc[i];
      desc.id = 0xffff;
      desc.len = 0xffffffff;
      desc.addr = 0;
    } else {
      Vring::over(f.base, f.layout, 64).usedRing[i] = VringUsedElem{0xffffffff, 0xffffffff};
    }
  }
  for (const Chain& chain : chains) f.device->push(chain.head, 0);
  f.device->publish();
  EXPECT_EQ(f.reap(), 8U);
  EXPECT_EQ(f.queue.broken(), nullptr);
}

TEST_P(InOrder, S55_BatchEndsWithinWhatTheDeviceMayHaveUsed) {
  const Chain first = f.submitAndPop(1);
  const uint16_t second = f.submit(1);
  if (!GetParam()) f.queue.publish();
  // Split: the index has moved by one, the id is two away. Packed: the second one was not published.
  f.device->forge(second, 0);
  f.device->publish();
  UsedHead used;
  EXPECT_EQ(f.queue.take(used), Virtq::Take::kBroken);
  EXPECT_STREQ(f.queue.broken(), "used id is out of order");
  EXPECT_EQ(f.queue.outstanding(), 2);
}

TEST_P(InOrder, BatchInTheMiddleOutlivesTheObject) {
  std::vector<Chain> chains;
  for (uint16_t i = 0; i < 4; ++i) chains.push_back(f.submitAndPop(2));
  for (const Chain& chain : chains) f.device->push(chain.head, 0);
  f.device->publish();
  UsedHead used;
  ASSERT_EQ(f.queue.take(used), Virtq::Take::kTaken);
  const uint16_t stops = f.queue.deviceUsed();
  // Whoever takes the mapping over goes on from the state.
  const VirtqFeatures features{true, true};
  if (GetParam()) {
    f.queue = Virtq(PackedVirtq(PackedRing::over(f.base, f.layout, 64), f.view, features));
  } else {
    f.queue = Virtq(SplitVirtq(Vring::over(f.base, f.layout, 64), f.view, features));
  }
  EXPECT_EQ(f.queue.deviceUsed(), stops);
  EXPECT_EQ(f.reap(), 3U);
  EXPECT_EQ(f.view.queue->lastUsed, stops);
}

TEST(PackedVirtq, F35_UsedFlagsThatDoNotFitTheWrapCounterBreakTheQueue) {
  for (const bool second : {false, true}) {
    Fixture f(64, {true, true, false});
    if (second) {
      for (int i = 0; i < 64; ++i) {
        f.complete(f.submitAndPop(1));
        ASSERT_EQ(f.reap(), 1U);
      }
    }
    const bool wrap = !second;
    f.submitAndPop(1);
    UsedHead used;
    f.packedDevice->forgeFlags(wrap, !wrap);
    EXPECT_EQ(f.queue.take(used), Virtq::Take::kNone);
    f.packedDevice->forgeFlags(!wrap, second);
    EXPECT_EQ(f.queue.take(used), Virtq::Take::kBroken);
    EXPECT_STREQ(f.queue.broken(), "used flags do not fit the wrap counter");
    EXPECT_EQ(f.queue.outstanding(), 1);
  }
}

TEST(PackedVirtq, ReservedEventFlagsOfTheDeviceMeanAKick) {
  Fixture f(64, {true, false, false});
  const PackedRing ring = PackedRing::over(f.base, f.layout, 64);
  for (const uint16_t flags : std::initializer_list<uint16_t>{2, 3, 0xffff}) {
    storeRelaxed(&ring.device->flags, flags);
    f.submit(1);
    f.queue.publish();
    EXPECT_TRUE(f.queue.shouldKick());
  }
}

TEST(PackedVirtq, DeviceEventAnywhereIsHarmless) {
  Fixture f(64, {true, true, false});
  const PackedRing ring = PackedRing::over(f.base, f.layout, 64);
  storeRelaxed(&ring.device->flags, kEventDesc);
  for (uint32_t event = 0; event < 0x10000; event += 13) {
    storeRelaxed(&ring.device->offWrap, static_cast<uint16_t>(event));
    const Chain chain = f.submitAndPop(1);
    f.queue.shouldKick();
    f.complete(chain);
    ASSERT_EQ(f.reap(), 1U);
  }
  EXPECT_EQ(f.queue.freeCount(), 64);
}

// Against a model that counts places: every position, every distance, every event within a ring's length.
TEST(PackedVirtq, S53_EventPositionIsJudgedAsIfPlacesWereCounted) {
  constexpr uint32_t kSize = 5;
  const auto encoded = [](uint64_t place) {
    return static_cast<uint16_t>(place % kSize | (place / kSize % 2 == 0 ? 0x8000U : 0U));
  };
  for (uint64_t now = 2 * kSize; now < 4 * kSize; ++now) {
    for (uint32_t added = 1; added <= kSize; ++added) {
      // The device waits at or behind what it has seen, or ahead within what may come.
      for (uint64_t event = now - kSize; event < now; ++event) {
        const bool passed = event >= now - added;
        EXPECT_EQ(needPackedEvent(encoded(event), PackedCursor::of(encoded(now)), added, kSize), passed)
            << now << " " << added << " " << event;
      }
    }
  }
}

// Two threads that only look when told to: a lost notification stops them for good.
TEST_P(EveryVirtq, S53_SuppressionNeverLosesAWakeUp) {
  constexpr uint32_t kTotal = 60'000;
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
    for (auto i = random() % 8 + 1; i > 0 && sent < kTotal && f.queue.freeCount() >= 3; --i, ++sent) {
      f.submit(static_cast<uint16_t>(random() % 3 + 1));
    }
    if (f.queue.unpublished() != 0) {
      f.queue.publish();
      if (f.queue.shouldKick()) kicks.fetch_add(1, std::memory_order_release);
    }
    f.queue.disableCalls();
    taken += f.reap();
    if (taken == kTotal || (f.queue.freeCount() >= 3 && sent < kTotal)) continue;
    f.queue.enableCalls(0);
    if (!f.queue.usedPending()) waitFor(calls, seen);
  }
  device.join();
  EXPECT_FALSE(lost.load()) << "both sides slept: a notification was lost";
  EXPECT_EQ(taken, kTotal);
  EXPECT_EQ(f.device->violation(), "");
}

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
