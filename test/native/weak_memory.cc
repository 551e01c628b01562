#include "weak_memory.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace vu::weak {
namespace {

constexpr const char* kSideNames[] = {"driver", "device"};
constexpr size_t kTracedEvents = 60;

bool acquires(std::memory_order order) {
  return order == std::memory_order_acquire || order == std::memory_order_acq_rel || order == std::memory_order_seq_cst;
}
bool releases(std::memory_order order) {
  return order == std::memory_order_release || order == std::memory_order_acq_rel || order == std::memory_order_seq_cst;
}

}  // namespace

uint32_t EveryChoice::choose(Kind kind, uint32_t options) {
  uint32_t& left = left_[static_cast<size_t>(kind)];
  if (left == 0) return 0;
  if (depth_ == path_.size()) path_.push_back({0, options});
  const uint32_t option = path_[depth_++].option;
  if (option != 0) --left;
  return option;
}

bool EveryChoice::next() {
  left_ = most_;
  depth_ = 0;
  while (!path_.empty() && path_.back().option + 1 == path_.back().options) path_.pop_back();
  if (path_.empty()) return false;
  ++path_.back().option;
  return true;
}

RandomChoice::RandomChoice(uint32_t seed) : random_(seed), rarity_{2U << random_() % 5, 1U << random_() % 5} {}

uint32_t RandomChoice::choose(Kind kind, uint32_t options) {
  if (random_() % rarity_[static_cast<size_t>(kind)] != 0) return 0;
  return static_cast<uint32_t>(random_() % options);
}

Memory* Memory::running_ = nullptr;

Memory::Memory(const void* base, size_t bytes)
    : base_(static_cast<const std::byte*>(base)), indexAt_((bytes + 1) / 2, 0) {
  for (Side& side : sides_) side.stack.resize(kStackBytes);
}

void Memory::View::joinSeen(const View& other) {
  for (size_t i = 0; i < kMaxPlaces; ++i) seen[i] = std::max(seen[i], other.seen[i]);
}

void Memory::View::join(const View& other) {
  joinSeen(other);
  for (size_t i = 0; i < kSides; ++i) clock[i] = std::max(clock[i], other.clock[i]);
}

std::string Memory::run(Choices& choices, std::function<void()> first, std::function<void()> second) {
  choices_ = &choices;
  for (uint32_t i = 0; i < placeCount_; ++i) {
    places_[i].history.clear();
    places_[i].latest = {};
  }
  views_.assign(1, View{});
  fences_ = View{};
  events_.clear();
  violation_.clear();
  sides_[0].program = std::move(first);
  sides_[1].program = std::move(second);
  for (Side& side : sides_) {
    side.ended = side.asleep = side.signalled = false;
    side.now = side.pending = side.given = View{};
    side.fenced = 0;
    ::getcontext(&side.context);
    side.context.uc_stack.ss_sp = side.stack.data();
    side.context.uc_stack.ss_size = side.stack.size();
    side.context.uc_link = nullptr;
    ::makecontext(&side.context, &Memory::enterSide, 0);
  }
  current_ = 0;
  running_ = this;
  ::swapcontext(&caller_, &sides_[0].context);
  running_ = nullptr;
  return violation_;
}

void Memory::enterSide() {
  Memory& memory = *running_;
  memory.me().program();
  memory.me().ended = true;
  memory.runOther();
}

void Memory::leave() {
  ::setcontext(&caller_);
  std::abort();
}

void Memory::runOther() {
  if (other().ended && me().ended) leave();
  if (!canRun(other())) fail("sleeps for ever: nobody is left to wake it");
  const size_t from = current_;
  current_ = 1 - current_;
  ::swapcontext(&sides_[from].context, &sides_[current_].context);
}

void Memory::moment() {
  if (canRun(other()) && choices_->choose(Choices::Kind::kSwitch, 2) == 1) runOther();
}

void Memory::fail(const std::string& why) {
  const size_t who = me().ended ? 1 - current_ : current_;
  violation_ = std::string(kSideNames[who]) + ": " + why + "\n" + trace();
  leave();
}

void Memory::signal() {
  moment();
  note("signals", nullptr, 0);
  // The kernel's lock in an eventfd is release for who writes and acquire for who reads.
  other().given.join(me().now);
  other().signalled = true;
}

void Memory::sleep() {
  moment();
  note("sleeps", nullptr, 0);
  me().asleep = true;
  if (!me().signalled) runOther();
  me().asleep = me().signalled = false;
  note("wakes", nullptr, 0);
  me().now.join(me().given);
}

uint32_t Memory::placeOf(const void* at, size_t bytes) {
  const auto offset = static_cast<size_t>(static_cast<const std::byte*>(at) - base_);
  if (offset / 2 >= indexAt_.size()) fail("access outside the shared memory");
  const uint16_t known = indexAt_[offset / 2];
  if (known == 0) {
    if (placeCount_ == kMaxPlaces) fail("more places than the model has room for");
    places_[placeCount_].at = at;
    places_[placeCount_].bytes = bytes;
    ++placeCount_;
    for (size_t half = offset / 2; half < (offset + bytes + 1) / 2; ++half) {
      if (std::exchange(indexAt_[half], static_cast<uint16_t>(placeCount_)) != 0) fail("two places overlap");
    }
  }
  const uint32_t index = indexAt_[offset / 2] - 1U;
  Place& place = places_[index];
  if (place.at != at || place.bytes != bytes) fail("one place is accessed as two");
  if (place.history.empty()) {
    uint64_t value = 0;
    std::memcpy(&value, at, bytes);
    place.history.push_back({value, 0});
  }
  return index;
}

// Judges the access by what the other side did to the place without happening before, and remembers it.
void Memory::judge(Place& place, Access access) {
  // A load of either kind next to a load of either kind is none of these.
  static constexpr std::array<std::array<bool, 4>, 4> kConflicts = {{
      {false, false, false, true},
      {false, true, true, true},
      {false, true, false, true},
      {true, true, true, true},
  }};
  if (events_.size() >= kMaxAccesses) fail("does not come to an end");
  const size_t they = 1 - current_;
  const size_t mine = static_cast<size_t>(access);
  const uint32_t known = me().now.clock[they];
  for (size_t theirs = 0; theirs < place.latest.size(); ++theirs) {
    if (kConflicts[mine][theirs] && place.latest[theirs][they] > known) {
      note("races at", &place, place.history.back().value);
      fail("data race: nothing orders this access and one of the other side");
    }
  }
  place.latest[mine][current_] = ++me().now.clock[current_];
}

uint32_t Memory::keep(const View& view) {
  views_.push_back(view);
  return static_cast<uint32_t>(views_.size() - 1);
}

void Memory::append(uint32_t index, uint64_t value, uint32_t view) { places_[index].history.push_back({value, view}); }

uint64_t Memory::load(const void* at, size_t bytes, std::memory_order order) {
  if (order != std::memory_order_relaxed && order != std::memory_order_acquire) fail("load of an order not modelled");
  moment();
  const uint32_t index = placeOf(at, bytes);
  Place& place = places_[index];
  judge(place, Access::kAtomicLoad);
  const auto newest = static_cast<uint32_t>(place.history.size() - 1);
  const uint32_t old = newest - me().now.seen[index];
  const uint32_t stale = old == 0 ? 0 : choices_->choose(Choices::Kind::kStale, old + 1);
  const Message& message = place.history[newest - stale];
  me().now.seen[index] = newest - stale;
  if (acquires(order)) {
    me().now.join(views_[message.view]);
  } else {
    me().pending.join(views_[message.view]);
  }
  note(acquires(order) ? "loads with acquire" : "loads", &place, message.value, stale);
  return message.value;
}

void Memory::store(const void* at, size_t bytes, uint64_t value, std::memory_order order) {
  if (order != std::memory_order_relaxed && order != std::memory_order_release) {
    fail("store of an order not modelled");
  }
  moment();
  const uint32_t index = placeOf(at, bytes);
  Place& place = places_[index];
  judge(place, Access::kAtomicStore);
  me().now.seen[index] = static_cast<uint32_t>(place.history.size());
  append(index, value, releases(order) ? keep(me().now) : me().fenced);
  note(releases(order) ? "stores with release" : "stores", &place, value);
}

void Memory::fence(std::memory_order order) {
  moment();
  if (acquires(order)) me().now.join(me().pending);
  if (order == std::memory_order_seq_cst) {
    // Not the clocks: the order of two fences alone makes nothing happen before anything.
    fences_.joinSeen(me().now);
    me().now.joinSeen(fences_);
  }
  if (releases(order)) me().fenced = keep(me().now);
  note(order == std::memory_order_seq_cst ? "fences" : "fences, not seq_cst", nullptr, 0);
}

uint64_t Memory::read(const void* at, size_t bytes) {
  const uint32_t index = placeOf(at, bytes);
  Place& place = places_[index];
  judge(place, Access::kPlainRead);
  me().now.seen[index] = static_cast<uint32_t>(place.history.size() - 1);
  note("reads", &place, place.history.back().value);
  return place.history.back().value;
}

void Memory::write(const void* at, size_t bytes, uint64_t value) {
  const uint32_t index = placeOf(at, bytes);
  Place& place = places_[index];
  judge(place, Access::kPlainWrite);
  me().now.seen[index] = static_cast<uint32_t>(place.history.size());
  append(index, value, 0);
  note("writes", &place, value);
}

void Memory::note(const char* what, const Place* place, uint64_t value, size_t stale) {
  const ptrdiff_t offset = place == nullptr ? -1 : static_cast<const std::byte*>(place->at) - base_;
  events_.push_back({current_, what, offset, value, stale});
}

std::string Memory::trace() const {
  std::string text;
  const size_t from = events_.size() > kTracedEvents ? events_.size() - kTracedEvents : 0;
  for (size_t i = from; i < events_.size(); ++i) {
    const Event& event = events_[i];
    text += std::string("  ") + kSideNames[event.side] + " " + event.what;
    if (event.offset >= 0) text += " +" + std::to_string(event.offset) + ": " + std::to_string(event.value);
    if (event.stale != 0) text += ", of which " + std::to_string(event.stale) + " newer are there";
    text += "\n";
  }
  return text;
}

}  // namespace vu::weak
