// Which way the pod's frames take to the memory shared with the switch: straight from the TAP, or by memory of the
// pump's own and past the caches (stream_copy.h).
//
// Which is cheaper is the machine's, and changes while it runs, with the distance of the two cores. 64 KiB straight
// took 10 us or, with the cores apart, 40 us on a Zen 4, by the other way 7; on a Granite Rapids 5 us, and 10 by the
// other. So a pump tries now and then: large frames go by both in turn, and the medians of what they took decide.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

namespace vu {

class TxWay {
 public:
  // Shorter frames say nothing about copying.
  static constexpr uint32_t kLargeBytes = 16 * 1024;
  // Large frames between two trials: some 50 ms at 10 Gbit/s.
  static constexpr uint32_t kPeriodFrames = 1024;
  // Large frames of a trial by each way. Odd: the median is one of them, and a few that were interrupted change
  // nothing.
  static constexpr uint32_t kTrialFrames = 9;

  // For the next frame.
  bool straight() const noexcept { return trying() ? nextOfTrial_ % 2 == 0 : straight_; }
  // Is passed() to be told how long the next frame took?
  bool trying() const noexcept { return untilTrial_ == 0; }

  // A frame of `bytes` has gone the way that straight() said; `tookNs` is looked at while trying().
  void passed(uint32_t bytes, uint64_t tookNs) noexcept {
    if (bytes < kLargeBytes) return;
    if (!trying()) {
      --untilTrial_;
      return;
    }
    // Per KiB in 1/16 ns, so that frames of unlike lengths compare.
    costs_[nextOfTrial_ % 2][nextOfTrial_ / 2] = tookNs * 16 * 1024 / bytes;
    if (++nextOfTrial_ < 2 * kTrialFrames) return;
    decide();
    nextOfTrial_ = 0;
    untilTrial_ = kPeriodFrames;
  }

 private:
  using Costs = std::array<uint64_t, kTrialFrames>;

  static uint64_t median(Costs& costs) noexcept {
    std::nth_element(costs.begin(), costs.begin() + kTrialFrames / 2, costs.end());
    return costs[kTrialFrames / 2];
  }
  // Noise shall not turn it: the other way must be better by an eighth.
  void decide() noexcept {
    const uint64_t straight = median(costs_[0]);
    const uint64_t streamed = median(costs_[1]);
    if (straight_ ? streamed < straight - straight / 8 : straight < streamed - streamed / 8) straight_ = !straight_;
  }

  bool straight_ = false;
  uint32_t untilTrial_ = 0;
  uint32_t nextOfTrial_ = 0;
  std::array<Costs, 2> costs_{};
};

}  // namespace vu
