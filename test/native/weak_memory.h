// A model of C++ atomics on a machine with weak memory order, for two sides of one shared memory; takes the place of
// the machine's accesses in native/core/shared_access.h.
//
// Each place has a history of messages. What a side knows is a view: how far into each history it has come. A load may
// get any message that is not older than that; which one is a choice of the explorer. A store with release sends its
// side's view along, a load with acquire takes it over, a load without does so at the next fence; fences with seq_cst
// share one view more. That is RC11 but for load buffering: a side's stores never come before its earlier loads.
//
// A plain access gets no choice: it must be ordered with every access of the other side to that place by
// happens-before, of which clocks are kept, and is a data race otherwise. In C++ a race may do anything, torn and early
// reads included; so a program that passes has none of them, whatever a compiler makes of it. Atomic stores of both
// sides to one place must be ordered too: a ring never needs such, and so histories grow at their end only.
//
// The sides are fibers of one thread; before every atomic access the explorer may let the other side run. Plain
// accesses need no such moment: a race is seen by the clocks, in whatever order the two come.
#pragma once

#include <ucontext.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <vector>

namespace vu::weak {

// Where an execution can go on in more than one way. Option 0 is what a strong machine does: the same side goes on, the
// newest message is read.
class Choices {
 public:
  enum class Kind : uint8_t { kSwitch, kStale };
  virtual ~Choices() = default;
  virtual uint32_t choose(Kind kind, uint32_t options) = 0;
};

// Every execution with at most so many switches and so many loads that get no newest message.
class EveryChoice final : public Choices {
 public:
  EveryChoice(uint32_t switches, uint32_t stale) : most_{switches, stale}, left_(most_) {}
  uint32_t choose(Kind kind, uint32_t options) override;
  // Before the next execution; false: there was none left.
  bool next();

 private:
  struct Taken {
    uint32_t option;
    uint32_t options;
  };
  std::array<uint32_t, 2> most_;
  std::array<uint32_t, 2> left_;
  std::vector<Taken> path_;
  size_t depth_ = 0;
};

// The execution of a seed: how often it switches, and how often it reads what is old, differs from seed to seed.
class RandomChoice final : public Choices {
 public:
  explicit RandomChoice(uint32_t seed);
  uint32_t choose(Kind kind, uint32_t options) override;

 private:
  std::mt19937 random_;
  // One in so many, by kind.
  std::array<uint32_t, 2> rarity_;
};

class Memory {
 public:
  // Shared are these bytes. What they hold when an execution begins is known to both sides; it does not change them.
  Memory(const void* base, size_t bytes);
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  // Runs both sides to their end. Returns what was wrong and the way to it, or "". What stands on a side's stack when
  // something is wrong is never destroyed.
  std::string run(Choices& choices, std::function<void()> first, std::function<void()> second);

  // For the side that runs. Wakes the other one, or keeps it from its next sleep, as an eventfd does.
  void signal();
  // Sleeps until the other side has signalled. Both asleep, or one for ever, is what run() returns.
  void sleep();
  [[noreturn]] void fail(const std::string& why);

  uint64_t load(const void* at, size_t bytes, std::memory_order order);
  void store(const void* at, size_t bytes, uint64_t value, std::memory_order order);
  void fence(std::memory_order order);
  uint64_t read(const void* at, size_t bytes);
  void write(const void* at, size_t bytes, uint64_t value);

  // The memory whose execution is under way, or nullptr.
  static Memory* running() { return running_; }

 private:
  static constexpr size_t kSides = 2;
  static constexpr size_t kMaxPlaces = 128;
  static constexpr uint32_t kMaxAccesses = 100'000;
  static constexpr size_t kStackBytes = 256 * 1024;

  struct View {
    // By place: the newest message known.
    std::array<uint32_t, kMaxPlaces> seen{};
    // By side: what of it happened before.
    std::array<uint32_t, kSides> clock{};

    void joinSeen(const View& other);
    void join(const View& other);
  };
  struct Message {
    uint64_t value;
    // In views_; 0 is that of the beginning, which everybody has.
    uint32_t view;
  };
  enum class Access : uint8_t { kAtomicLoad, kAtomicStore, kPlainRead, kPlainWrite };
  struct Place {
    const void* at = nullptr;
    size_t bytes = 0;
    std::vector<Message> history;
    // By access and side: its clock at the latest one.
    std::array<std::array<uint32_t, kSides>, 4> latest{};
  };
  struct Side {
    ucontext_t context;
    std::vector<std::byte> stack;
    std::function<void()> program;
    bool ended = false;
    bool asleep = false;
    bool signalled = false;
    View now;
    // What relaxed loads have seen: known from the next fence with acquire on.
    View pending;
    // What the other side gave with its signals.
    View given;
    // In views_: that of the latest fence with release, which relaxed stores send along.
    uint32_t fenced = 0;
  };
  struct Event {
    size_t side;
    const char* what;
    // -1: none.
    ptrdiff_t offset;
    uint64_t value;
    // Messages newer than the one that was read.
    size_t stale;
  };

  static void enterSide();
  Side& me() { return sides_[current_]; }
  Side& other() { return sides_[1 - current_]; }
  bool canRun(const Side& side) const { return !side.ended && (!side.asleep || side.signalled); }
  // The explorer may let the other side run first.
  void moment();
  void runOther();
  [[noreturn]] void leave();
  uint32_t placeOf(const void* at, size_t bytes);
  void judge(Place& place, Access access);
  uint32_t keep(const View& view);
  void append(uint32_t index, uint64_t value, uint32_t view);
  void note(const char* what, const Place* place, uint64_t value, size_t stale = 0);
  std::string trace() const;

  static Memory* running_;

  const std::byte* base_;
  // By half word of the memory: index + 1 of its place, 0 = none yet.
  std::vector<uint16_t> indexAt_;
  std::array<Place, kMaxPlaces> places_;
  uint32_t placeCount_ = 0;
  std::vector<View> views_;
  View fences_;
  std::array<Side, kSides> sides_;
  size_t current_ = 0;
  ucontext_t caller_;
  Choices* choices_ = nullptr;
  std::vector<Event> events_;
  std::string violation_;
};

}  // namespace vu::weak

// Outside of executions the machine's memory: rings are set up there.
namespace vu::shared {

template <typename T>
T read(const T& place) noexcept {
  weak::Memory* memory = weak::Memory::running();
  return memory == nullptr ? place : static_cast<T>(memory->read(&place, sizeof place));
}
template <typename T>
void write(T& place, T value) noexcept {
  if (weak::Memory* memory = weak::Memory::running()) {
    memory->write(&place, sizeof place, value);
  } else {
    place = value;
  }
}

template <typename T>
class atomic_ref {
 public:
  explicit atomic_ref(T& place) noexcept : place_(place) {}
  T load(std::memory_order order) const noexcept {
    weak::Memory* memory = weak::Memory::running();
    return memory == nullptr ? place_ : static_cast<T>(memory->load(&place_, sizeof place_, order));
  }
  void store(T value, std::memory_order order) const noexcept {
    if (weak::Memory* memory = weak::Memory::running()) {
      memory->store(&place_, sizeof place_, value, order);
    } else {
      place_ = value;
    }
  }

 private:
  T& place_;
};

inline void atomic_thread_fence(std::memory_order order) noexcept {
  if (weak::Memory* memory = weak::Memory::running()) memory->fence(order);
}

}  // namespace vu::shared
