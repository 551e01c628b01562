// The rings' own code under a model of weak memory order: litmus tests of the model, then every kind of ring against a
// device that keeps the rules. On x86-64 no other test can see a barrier that is missing.
//
// A binary of its own: virtq_*.cc and the device are compiled for the model (weak_memory.h).
#include "weak_memory.h"

#include <gtest/gtest.h>

#include <set>

#include "ring_device.h"
#include "virtq.h"

namespace vu::test {
namespace {

// Short executions are all those with at most so many switches between the sides and so many loads of what is old.
constexpr uint32_t kSwitches = 2;
constexpr uint32_t kStaleLoads = 2;
constexpr uint32_t kSeeds = 3000;

// Two or three words and what two programs may read of them, over every execution.
class WeakMemoryModel : public ::testing::Test {
 protected:
  using Outcomes = std::set<std::pair<int, int>>;

  // A program returns what it read.
  Outcomes outcomes(const std::function<int()>& first, const std::function<int()>& second) {
    weak::EveryChoice choices(100, 100);
    Outcomes seen;
    do {
      std::pair<int, int> read;
      const std::string wrong = memory_.run(
          choices, [&] { read.first = first(); }, [&] { read.second = second(); });
      if (wrong.empty()) {
        seen.insert(read);
      } else {
        wrong_ = wrong;
      }
    } while (choices.next());
    return seen;
  }
  bool raced() const { return wrong_.find("data race") != std::string::npos; }

  uint16_t words_[3] = {};
  uint16_t* const x = &words_[0];
  uint16_t* const y = &words_[1];
  uint16_t* const data = &words_[2];
  std::string wrong_;

 private:
  weak::Memory memory_{words_, sizeof words_};
};

TEST_F(WeakMemoryModel, S54_StoreMayComeBehindALaterLoadUnlessFullFencesStandBetweenOnBothSides) {
  const auto program = [](uint16_t* mine, uint16_t* theirs, bool fenced) {
    return [=] {
      storeRelease(mine, 1);
      if (fenced) fullFence();
      return int{loadAcquire(theirs)};
    };
  };
  const Outcomes strong{{0, 1}, {1, 0}, {1, 1}};
  Outcomes weak = strong;
  weak.insert({0, 0});
  EXPECT_EQ(outcomes(program(x, y, true), program(y, x, true)), strong);
  EXPECT_EQ(outcomes(program(x, y, true), program(y, x, false)), weak);
  EXPECT_EQ(outcomes(program(x, y, false), program(y, x, true)), weak);
  EXPECT_EQ(outcomes(program(x, y, false), program(y, x, false)), weak);
}

TEST_F(WeakMemoryModel, S54_FenceThatIsNotSeqCstOrdersNoStoreBeforeALaterLoad) {
  const auto program = [](uint16_t* mine, uint16_t* theirs) {
    return [=] {
      storeRelaxed(mine, 1);
      shared::atomic_thread_fence(std::memory_order_acq_rel);
      return int{loadRelaxed(theirs)};
    };
  };
  EXPECT_TRUE(outcomes(program(x, y), program(y, x)).contains({0, 0}));
}

TEST_F(WeakMemoryModel, S54_MessageArrivesWholeWithReleaseAndAcquireAndWithNeitherAloneAlone) {
  const auto send = [this](bool release) {
    return [this, release] {
      storeRelaxed(x, 1);
      release ? storeRelease(y, 1) : storeRelaxed(y, 1);
      return 0;
    };
  };
  const auto receive = [this](bool acquire) {
    return [this, acquire] {
      const int flag = acquire ? loadAcquire(y) : loadRelaxed(y);
      return 10 * flag + loadRelaxed(x);
    };
  };
  const Outcomes whole{{0, 0}, {0, 1}, {0, 11}};
  Outcomes early = whole;
  early.insert({0, 10});
  EXPECT_EQ(outcomes(send(true), receive(true)), whole);
  EXPECT_EQ(outcomes(send(false), receive(true)), early);
  EXPECT_EQ(outcomes(send(true), receive(false)), early);
  EXPECT_EQ(outcomes(send(false), receive(false)), early);
}

TEST_F(WeakMemoryModel, S54_FencesMakeRelaxedAccessesCarryAMessage) {
  const auto send = [this](std::memory_order fence) {
    return [this, fence] {
      storeRelaxed(x, 1);
      shared::atomic_thread_fence(fence);
      storeRelaxed(y, 1);
      return 0;
    };
  };
  const auto receive = [this](std::memory_order fence) {
    return [this, fence] {
      const int flag = loadRelaxed(y);
      shared::atomic_thread_fence(fence);
      return 10 * flag + loadRelaxed(x);
    };
  };
  const auto early = [&](std::memory_order sent, std::memory_order received) {
    return outcomes(send(sent), receive(received)).contains({0, 10});
  };
  EXPECT_FALSE(early(std::memory_order_release, std::memory_order_acquire));
  EXPECT_FALSE(early(std::memory_order_seq_cst, std::memory_order_seq_cst));
  EXPECT_TRUE(early(std::memory_order_acquire, std::memory_order_acquire));
  EXPECT_TRUE(early(std::memory_order_release, std::memory_order_release));
}

TEST_F(WeakMemoryModel, S54_OnePlaceNeverGoesBack) {
  const auto stores = [this] {
    storeRelaxed(x, 1);
    storeRelaxed(x, 2);
    return 0;
  };
  const auto loads = [this] {
    const int first = loadRelaxed(x);
    return 10 * first + loadRelaxed(x);
  };
  EXPECT_EQ(outcomes(stores, loads), (Outcomes{{0, 0}, {0, 1}, {0, 2}, {0, 11}, {0, 12}, {0, 22}}));
}

TEST_F(WeakMemoryModel, S54_PlainAccessWithoutOrderIsARace) {
  const auto send = [this](bool release) {
    return [this, release] {
      storePlain(data, 7);
      release ? storeRelease(y, 1) : storeRelaxed(y, 1);
      return 0;
    };
  };
  const auto receive = [this](bool acquire) {
    return [this, acquire] {
      const bool there = (acquire ? loadAcquire(y) : loadRelaxed(y)) != 0;
      return there ? int{loadPlain(data)} : 0;
    };
  };
  EXPECT_EQ(outcomes(send(true), receive(true)), (Outcomes{{0, 0}, {0, 7}}));
  EXPECT_FALSE(raced());
  for (const auto& [release, acquire] : {std::pair{false, true}, {true, false}}) {
    wrong_.clear();
    outcomes(send(release), receive(acquire));
    EXPECT_TRUE(raced());
  }
}

TEST_F(WeakMemoryModel, S54_PlainWriteRacesWithAnEarlierRead) {
  const auto reads = [this](bool release) {
    return [this, release] {
      const int got = loadPlain(data);
      release ? storeRelease(y, 1) : storeRelaxed(y, 1);
      return got;
    };
  };
  const auto writes = [this] {
    if (loadAcquire(y) != 0) storePlain(data, 7);
    return 0;
  };
  EXPECT_EQ(outcomes(reads(true), writes), (Outcomes{{0, 0}}));
  EXPECT_FALSE(raced());
  outcomes(reads(false), writes);
  EXPECT_TRUE(raced());
}

TEST_F(WeakMemoryModel, S54_OrderOfTwoFullFencesAloneMakesNoPlainAccessSafe) {
  const auto sends = [this] {
    storePlain(data, 7);
    fullFence();
    return 0;
  };
  const auto receives = [this] {
    fullFence();
    return int{loadPlain(data)};
  };
  outcomes(sends, receives);
  EXPECT_TRUE(raced());
}

TEST_F(WeakMemoryModel, S54_TwoSidesThatStoreToOnePlaceUnorderedAreARace) {
  const auto store = [this] {
    storeRelease(x, 1);
    return 0;
  };
  outcomes(store, store);
  EXPECT_TRUE(raced());
}

TEST_F(WeakMemoryModel, S54_SleepWithoutASignalIsFound) {
  weak::Memory memory(words_, sizeof words_);
  weak::EveryChoice choices(2, 0);
  const auto sleeps = [&] { memory.sleep(); };
  const auto signals = [&] { memory.signal(); };
  do {
    EXPECT_EQ(memory.run(choices, sleeps, signals), "");
    EXPECT_EQ(memory.run(choices, signals, sleeps), "");
  } while (choices.next());
  EXPECT_NE(memory.run(choices, sleeps, [] {}).find("sleeps for ever"), std::string::npos);
  EXPECT_NE(memory.run(choices, sleeps, sleeps).find("sleeps for ever"), std::string::npos);
}

struct RingKind {
  bool packed = false;
  bool eventIdx = false;
  bool inOrder = false;
  // The device writes.
  bool receive = false;
  // INDIRECT_DESC: chains of two lie in a table.
  bool indirect = false;

  std::string name() const {
    return std::string(packed ? "packed" : "split") + (eventIdx ? "_event_idx" : "_flags") +
           (inOrder ? "_in_order" : "_any_order") + (receive ? "_receive" : "_transmit") +
           (indirect ? "_indirect" : "");
  }
};

std::vector<RingKind> everyKind() {
  std::vector<RingKind> kinds;
  for (unsigned bits = 0; bits < 16; ++bits) {
    const bool receive = (bits & 1) != 0;
    kinds.push_back({(bits & 8) != 0, (bits & 4) != 0, (bits & 2) != 0, receive, false});
    if (!receive) kinds.push_back({(bits & 8) != 0, (bits & 4) != 0, (bits & 2) != 0, receive, true});
  }
  return kinds;
}

struct Plot {
  uint32_t size;
  // Chains that go around in all.
  uint32_t chains;
  // Split: what both indices begin with.
  uint16_t start;
  // Of what the sides decide by themselves: lengths, batches, when they look.
  uint32_t whims;
};

// One ring, its driver and a device: what they do, and what each must see of the other.
//
// Numbers of chains are those of their submission. Both sides remember here, outside of the shared memory, what they
// have published; the other one compares. No object with a destructor may live on the sides' stacks.
class Story {
 public:
  Story(const RingKind& kind, const Plot& plot)
      : kind_(kind), plot_(plot), memory_(shared_, sizeof shared_), numberOf_(plot.size) {
    if (!addresses_.add({kLabel, sizeof shared_, shared_})) std::abort();
  }

  std::string run(weak::Choices& choices) {
    setUp();
    return memory_.run(
        choices, [this] { drive(); }, [this] { serve(); });
  }

 private:
  static constexpr uint64_t kLabel = 0x100000;
  static constexpr size_t kBuffers = 2 * kPageBytes;
  static constexpr uint32_t kBufferBytes = 8;
  static constexpr uint32_t kShortBytes = 4;
  static constexpr uint32_t kMostSize = 8;
  static constexpr uint32_t kMostSegments = 2;
  // Those of the descriptors, then the second ones of chains that lie in tables.
  static constexpr size_t kTables = kBuffers + 2 * size_t{kBufferBytes} * kMostSize;

  struct Submission {
    uint16_t segments = 0;
    // Descriptors of the ring.
    uint16_t slots = 0;
    uint16_t buffers[kMostSegments] = {};
  };
  struct Completion {
    uint32_t number;
    uint32_t len;
  };

  void setUp() {
    std::fill(std::begin(shared_), std::end(shared_), uint8_t{0});
    std::fill(std::begin(state_), std::end(state_), uint8_t{0});
    driverWhim_.seed(plot_.whims);
    deviceWhim_.seed(plot_.whims + 1);
    submissions_.clear();
    completions_.clear();
    held_.clear();
    spare_.clear();
    publishedSubmissions_ = publishedCompletions_ = popped_ = taken_ = 0;
    const QueueStateView state = QueueStateView::over(state_, QueueStateLayout::at(0, plot_.size, 0));
    const VirtqFeatures features{kind_.eventIdx, kind_.inOrder};
    const DeviceSetup setup{addresses_, kind_.receive, features, -1, -1, kind_.indirect};
    if (kind_.packed) {
      const PackedRing ring = PackedRing::over(shared_, packedLayoutAt(0, plot_.size), plot_.size);
      state.queue->availIdx = state.queue->lastUsed = kPackedStart;
      queue_ = Virtq(PackedVirtq(ring, state, features));
      device_ = std::make_unique<PackedDevice>(ring, setup);
    } else {
      const Vring ring = Vring::over(shared_, VringLayout::at(0, plot_.size), plot_.size);
      *ring.availIdx = *ring.usedIdx = state.queue->availIdx = state.queue->lastUsed = plot_.start;
      queue_ = Virtq(SplitVirtq(ring, state, features));
      device_ = std::make_unique<SplitDevice>(ring, setup, plot_.start);
    }
    queue_.initFreeList();
    queue_.startWithoutCalls();
  }

  uint8_t* buffer(uint16_t index) { return shared_ + kBuffers + size_t{kBufferBytes} * index; }
  uint64_t label(uint16_t index) const { return kLabel + kBuffers + uint64_t{kBufferBytes} * index; }
  static uint64_t* words(uint8_t* buffer) { return reinterpret_cast<uint64_t*>(buffer); }
  static uint64_t question(uint32_t number, uint32_t segment) { return 1000 + 10 * uint64_t{number} + segment; }
  static uint64_t answer(uint32_t number) { return 500'000 + number; }

  // Of the driver.
  bool whim(uint32_t oneIn) { return driverWhim_() % oneIn == 0; }

  void drive() {
    while (taken_ < plot_.chains) {
      const bool took = takeAll();
      if (submit() || took) continue;
      // As a pump before its sleep.
      queue_.enableCalls(static_cast<uint16_t>(kind_.receive || whim(2) ? 0 : queue_.outstanding() / 2));
      if (!queue_.usedPending()) memory_.sleep();
      queue_.disableCalls();
    }
    if (queue_.outstanding() != 0 || queue_.freeCount() + spare_.size() != plot_.size) {
      memory_.fail("descriptors are lost at the end");
    }
  }

  bool takeAll() {
    const uint32_t before = taken_;
    UsedHead used{};
    while (queue_.take(used) == Virtq::Take::kTaken) {
      judgeUsed(used);
      ++taken_;
      if (whim(4)) break;
    }
    if (queue_.broken() != nullptr) memory_.fail(queue_.broken());
    // A stop may come at any time: what it looks at must have been handed over too.
    if (whim(8)) (void)queue_.deviceUsed();
    return taken_ != before;
  }

  void judgeUsed(const UsedHead& used) {
    if (taken_ >= publishedCompletions_) memory_.fail("takes what the device has not published");
    const Completion& expected = completions_[taken_];
    const Submission& submission = submissions_[expected.number];
    if (numberOf_[used.head] != expected.number) memory_.fail("takes another chain than the device has used");
    if (used.chain != submission.slots) memory_.fail("takes a chain of another length");
    // Of a transmit chain the length says nothing.
    if (kind_.receive && used.len != expected.len) memory_.fail("takes a length of the past");
    if (kind_.receive && loadPlain(words(buffer(submission.buffers[0]))) != answer(expected.number)) {
      memory_.fail("reads a payload of the past");
    }
    if (kind_.receive && submission.segments == 1 && whim(2)) {
      spare_.push_back(used.head);
    } else {
      queue_.release(used.head, used.chain);
    }
  }

  bool submit() {
    while (submissions_.size() < plot_.chains) {
      const auto number = static_cast<uint32_t>(submissions_.size());
      const auto segments = static_cast<uint16_t>(whim(2) ? 2 : 1);
      if (!spare_.empty()) {
        repost(number);
      } else if (queue_.freeCount() >= (kind_.indirect ? 1 : segments)) {
        if (kind_.indirect && segments == 2) {
          describeTable(number);
        } else {
          describe(number, segments);
        }
      } else {
        break;
      }
      if (whim(3)) break;
    }
    if (queue_.unpublished() == 0) return false;
    publishedSubmissions_ = static_cast<uint32_t>(submissions_.size());
    queue_.publish();
    if (queue_.shouldKick()) memory_.signal();
    return true;
  }

  void describe(uint32_t number, uint16_t segments) {
    Submission submission;
    submission.segments = submission.slots = segments;
    for (uint16_t i = 0; i < segments; ++i) submission.buffers[i] = queue_.allocate();
    const uint16_t head = submission.buffers[0];
    for (uint16_t i = 0; i < segments; ++i) {
      const uint16_t index = submission.buffers[i];
      const bool last = i + 1 == segments;
      ask(number, i, index);
      queue_.describe(index, label(index), kBufferBytes,
                      static_cast<uint16_t>((last ? 0 : kDescNext) | (kind_.receive ? kDescWrite : 0)),
                      last ? uint16_t{0} : submission.buffers[i + 1]);
    }
    remember(number, head, submission);
    queue_.submit(head, segments, segments * kBufferBytes, kNoTail);
  }
  void describeTable(uint32_t number) {
    Submission submission;
    submission.segments = 2;
    submission.slots = 1;
    const uint16_t head = submission.buffers[0] = queue_.allocate();
    const uint16_t second = submission.buffers[1] = static_cast<uint16_t>(kMostSize + head);
    ask(number, 0, head);
    ask(number, 1, second);
    const size_t table = kTables + size_t{DescTable::kBytes} * head;
    queue_.describeTable(head, {shared_ + table, kLabel + table}, {label(head), kBufferBytes},
                         {label(second), kBufferBytes});
    remember(number, head, submission);
    queue_.submit(head, 1, 2 * kBufferBytes, kNoTail);
  }
  void repost(uint32_t number) {
    Submission submission;
    submission.segments = submission.slots = 1;
    const uint16_t head = submission.buffers[0] = spare_.back();
    spare_.pop_back();
    ask(number, 0, head);
    remember(number, head, submission);
    queue_.repost(head, label(head), kBufferBytes);
  }
  // Also in a receive buffer: its old content must not come after what the device writes.
  void ask(uint32_t number, uint32_t segment, uint16_t index) {
    storePlain(words(buffer(index)), question(number, segment));
  }
  void remember(uint32_t number, uint16_t head, const Submission& submission) {
    submissions_.push_back(submission);
    numberOf_[head] = number;
  }

  // Of the device.
  uint32_t deviceWhim(uint32_t below) { return static_cast<uint32_t>(deviceWhim_() % below); }

  void serve() {
    while (completions_.size() < plot_.chains) {
      if (deviceWhim(3) == 0) device_->suppressKicks();
      const bool popped = popAll();
      const auto holds = static_cast<uint32_t>(held_.size());
      // What is held longer is completed when nothing else is to be done.
      if (complete(popped ? deviceWhim(holds + 1) : holds) || popped) continue;
      if (!device_->armKicks()) memory_.sleep();
    }
  }

  bool popAll() {
    const uint32_t before = popped_;
    while (device_->pop(chain_)) {
      if (popped_ >= publishedSubmissions_) memory_.fail("takes a chain that was not published");
      judgeChain(submissions_[popped_]);
      held_.push_back({popped_, chain_.head, chain_.bytes()});
      ++popped_;
      if (deviceWhim(4) == 0) break;
    }
    judgeDevice();
    return popped_ != before;
  }
  void judgeChain(const Submission& expected) {
    judgeDevice();
    if (chain_.segments.size() != expected.segments) memory_.fail("sees a chain of the past");
    for (uint32_t i = 0; i < expected.segments; ++i) {
      const Segment& segment = chain_.segments[i];
      if (segment.host != buffer(expected.buffers[i]) || segment.len != kBufferBytes) {
        memory_.fail("sees a descriptor of the past");
      }
      if (loadPlain(words(segment.host)) != question(popped_, i)) memory_.fail("reads a payload of the past");
    }
  }
  void judgeDevice() {
    if (!device_->violation().empty()) memory_.fail(device_->violation());
  }

  bool complete(uint32_t count) {
    if (count == 0) return false;
    for (; count != 0; --count) {
      const uint32_t which = kind_.inOrder ? 0 : deviceWhim(static_cast<uint32_t>(held_.size()));
      const Held held = held_[which];
      held_.erase(held_.begin() + which);
      uint32_t len = 0;
      if (kind_.receive) {
        len = deviceWhim(4) == 0 ? kShortBytes : held.bytes;
        storePlain(words(buffer(submissions_[held.number].buffers[0])), answer(held.number));
      }
      completions_.push_back({held.number, len});
      device_->push(held.head, len);
      if (deviceWhim(3) == 0 || count == 1) publishUsed();
    }
    judgeDevice();
    return true;
  }
  void publishUsed() {
    publishedCompletions_ = static_cast<uint32_t>(completions_.size());
    device_->publish();
    if (device_->notify()) memory_.signal();
  }

  struct Held {
    uint32_t number;
    uint16_t head;
    uint32_t bytes;
  };

  const RingKind kind_;
  const Plot plot_;
  alignas(kPageBytes) uint8_t shared_[kTables + size_t{DescTable::kBytes} * kMostSize] = {};
  alignas(64) uint8_t state_[QueueStateLayout::at(0, kMostSize, 0).end] = {};
  AddressMap addresses_;
  weak::Memory memory_;
  Virtq queue_;
  std::unique_ptr<RingDevice> device_;

  std::mt19937 driverWhim_;
  std::vector<Submission> submissions_;
  // By head.
  std::vector<uint32_t> numberOf_;
  // Receive buffers to be posted again.
  std::vector<uint16_t> spare_;
  uint32_t publishedSubmissions_ = 0;
  uint32_t taken_ = 0;

  std::mt19937 deviceWhim_;
  Chain chain_;
  std::vector<Held> held_;
  std::vector<Completion> completions_;
  uint32_t publishedCompletions_ = 0;
  uint32_t popped_ = 0;
};

class WeakMemory : public ::testing::TestWithParam<RingKind> {};
INSTANTIATE_TEST_SUITE_P(Rings, WeakMemory, ::testing::ValuesIn(everyKind()),
                         [](const auto& info) { return info.param.name(); });

TEST_P(WeakMemory, S53_S54_NothingIsTornEarlyOrLostInAnyShortExecution) {
  uint32_t executions = 0;
  for (uint32_t whims = 0; whims < 3; ++whims) {
    Story story(GetParam(), {2, 3, 0xfffe, whims});
    weak::EveryChoice choices(kSwitches, kStaleLoads);
    do {
      const std::string wrong = story.run(choices);
      ASSERT_TRUE(wrong.empty()) << wrong << "whims " << whims;
      ++executions;
    } while (choices.next());
  }
  RecordProperty("executions", static_cast<int>(executions));
}

TEST_P(WeakMemory, S53_S54_NothingIsTornEarlyOrLostInLongRandomExecutions) {
  for (uint32_t seed = 1; seed <= kSeeds; ++seed) {
    // Eight tables are more places than the model has.
    const uint32_t size = 2U << seed % (GetParam().indirect ? 2 : 3);
    const auto start = static_cast<uint16_t>(seed % 2 == 0 ? 0 : 0x10000 - 3 * size);
    Story story(GetParam(), {size, 5 * size, start, seed});
    weak::RandomChoice choices(seed);
    const std::string wrong = story.run(choices);
    ASSERT_TRUE(wrong.empty()) << wrong << "seed " << seed;
  }
}

}  // namespace
}  // namespace vu::test
