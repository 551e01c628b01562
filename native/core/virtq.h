// A virtqueue of either kind, as a queue pair uses it. Inlined: one branch that never changes, no virtual call; with()
// asks it once for several steps.
#pragma once

#include <variant>

#include "virtq_packed.h"
#include "virtq_split.h"

namespace vu {

class Virtq {
  template <typename Self, typename Action>
  static decltype(auto) on(Self& self, Action&& action) noexcept {
    if (auto* split = std::get_if<SplitVirtq>(&self.queue_)) [[likely]] {
      return action(*split);
    }
    return action(*std::get_if<PackedVirtq>(&self.queue_));
  }
  template <typename Action>
  auto with(Action&& action) const noexcept {
    return on(*this, action);
  }
  VirtqBooks& books() noexcept {
    return on(*this, [](VirtqBooks& queue) -> VirtqBooks& { return queue; });
  }
  const VirtqBooks& books() const noexcept {
    return on(*this, [](const VirtqBooks& queue) -> const VirtqBooks& { return queue; });
  }

 public:
  template <typename Action>
  auto with(Action&& action) noexcept {
    return on(*this, action);
  }

  using Take = VirtqBooks::Take;

  Virtq() noexcept = default;
  explicit Virtq(const SplitVirtq& split) noexcept : queue_(split) {}
  explicit Virtq(const PackedVirtq& packed) noexcept : queue_(packed) {}

  bool packed() const noexcept { return std::holds_alternative<PackedVirtq>(queue_); }
  void initFreeList() noexcept { books().initFreeList(); }
  uint16_t freeCount() const noexcept { return books().freeCount(); }
  uint16_t outstanding() const noexcept { return books().outstanding(); }
  const char* broken() const noexcept { return books().broken(); }
  uint16_t peekFree() const noexcept { return books().peekFree(); }
  uint16_t allocate() noexcept { return books().allocate(); }
  void release(uint16_t head, uint16_t chain) noexcept { books().release(head, chain); }
  void markBroken(const char* reason) noexcept { books().markBroken(reason); }

  void describe(uint16_t index, uint64_t label, uint32_t len, uint16_t flags, uint16_t next) noexcept {
    with([&](auto& queue) { queue.describe(index, label, len, flags, next); });
  }
  void describeTable(uint16_t index, const DescTable& table, const DescPart& first, const DescPart& second) noexcept {
    with([&](auto& queue) { queue.describeTable(index, table, first, second); });
  }
  void submit(uint16_t head, uint16_t chain, uint32_t bytes, uint16_t tail) noexcept {
    with([&](auto& queue) { queue.submit(head, chain, bytes, tail); });
  }
  void repost(uint16_t head, uint64_t label, uint32_t len) noexcept {
    with([&](auto& queue) { queue.repost(head, label, len); });
  }
  uint16_t unpublished() const noexcept {
    return with([](const auto& queue) { return queue.unpublished(); });
  }
  void publish() noexcept {
    with([](auto& queue) { queue.publish(); });
  }
  bool shouldKick() noexcept {
    return with([](auto& queue) { return queue.shouldKick(); });
  }
  bool usedPending() const noexcept {
    return with([](const auto& queue) { return queue.usedPending(); });
  }
  Take take(UsedHead& used) noexcept {
    return with([&](auto& queue) { return queue.take(used); });
  }
  void enableCalls(uint16_t after) noexcept {
    with([&](auto& queue) { queue.enableCalls(after); });
  }
  void disableCalls() noexcept {
    with([](auto& queue) { queue.disableCalls(); });
  }
  void startWithoutCalls() noexcept {
    with([](auto& queue) { queue.startWithoutCalls(); });
  }
  uint16_t deviceUsed() const noexcept {
    return with([](const auto& queue) { return queue.deviceUsed(); });
  }

 private:
  std::variant<SplitVirtq, PackedVirtq> queue_;
};

}  // namespace vu
