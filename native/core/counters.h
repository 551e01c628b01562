// Counters of a queue pair: written by one pump thread, read by any; relaxed 64-bit, cache lines of their own.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace vu {

// Single writer: a plain load and store, no locked instruction.
class Counter {
 public:
  void add(uint64_t n) noexcept { value_.store(value_.load(std::memory_order_relaxed) + n, std::memory_order_relaxed); }
  uint64_t get() const noexcept { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> value_{0};
};

// Why a frame went nowhere. tx: pod → backend, rx: backend → pod.
enum class Drop : uint8_t {
  kTxLost,         // with the backend when the session ended
  kTxTruncated,    // filled the whole buffer: something may be missing
  kTxInvalid,      // shorter than header and Ethernet header, or offload fields that cannot be
  kTxUnsupported,  // needs an offload that the backend lacks and software was not asked for
  kTxDiscarded,    // read and dropped after the hold time
  kTxInject,       // an announcement that could not be sent
  kRxInvalid,      // refused by the TAP (EINVAL): headers or sizes that cannot be
  kRxLinkDown,     // pod's interface is down (EIO)
  kRxTapFull,      // TAP did not take it (EAGAIN, ENOBUFS, ENOMEM)
  kRxTooLong,      // used length beyond the posted one, or longer than a frame can be
  kRxShort,        // used length below the header
  kRxLost,         // half received when the session ended
  kCount,
};
inline constexpr std::array<const char*, static_cast<size_t>(Drop::kCount)> kDropNames = {
    "tx_lost",    "tx_truncated", "tx_invalid",  "tx_unsupported", "tx_discarded", "tx_inject",
    "rx_invalid", "rx_link_down", "rx_tap_full", "rx_too_long",    "rx_short",     "rx_lost"};

enum class Event : uint8_t {
  kKicks,
  kKicksSuppressed,
  kCalls,
  kTxRingFull,
  kGsoFrames,    // frames from the pod segmented in software
  kGsoSegments,  // what became of them
  kGroFrames,    // frames that went to the pod merged from several
  kGroMerged,    // segments and datagrams merged into them
  kChecksums,    // completed in software
  kRxRefills,    // publications of receive buffers
  kCallsMuted,   // call storms
  kSpins,        // rounds that found nothing to do
  kRingsCorrupt,
  kRxFiltered,  // frames of the backend that are not for the pod (RxFilter)
  kCount,
};
inline constexpr std::array<const char*, static_cast<size_t>(Event::kCount)> kEventNames = {
    "kicks",      "kicks_suppressed", "calls",      "tx_ring_full", "gso_frames", "gso_segments",  "gro_frames",
    "gro_merged", "checksums",        "rx_refills", "calls_muted",  "spins",      "rings_corrupt", "rx_filtered"};

struct alignas(64) PairCounters {
  Counter txFrames;
  Counter txBytes;
  Counter rxFrames;
  Counter rxBytes;
  std::array<Counter, static_cast<size_t>(Drop::kCount)> drops;
  std::array<Counter, static_cast<size_t>(Event::kCount)> events;

  void drop(Drop reason, uint64_t frames = 1) noexcept { drops[static_cast<size_t>(reason)].add(frames); }
  void event(Event kind, uint64_t n = 1) noexcept { events[static_cast<size_t>(kind)].add(n); }
};

struct CounterTotals {
  uint64_t txFrames = 0;
  uint64_t txBytes = 0;
  uint64_t rxFrames = 0;
  uint64_t rxBytes = 0;
  std::array<uint64_t, static_cast<size_t>(Drop::kCount)> drops{};
  std::array<uint64_t, static_cast<size_t>(Event::kCount)> events{};

  void add(const PairCounters& pair) noexcept {
    txFrames += pair.txFrames.get();
    txBytes += pair.txBytes.get();
    rxFrames += pair.rxFrames.get();
    rxBytes += pair.rxBytes.get();
    for (size_t i = 0; i < drops.size(); ++i) drops[i] += pair.drops[i].get();
    for (size_t i = 0; i < events.size(); ++i) events[i] += pair.events[i].get();
  }
  uint64_t drop(Drop reason) const noexcept { return drops[static_cast<size_t>(reason)]; }
  uint64_t event(Event kind) const noexcept { return events[static_cast<size_t>(kind)]; }
};

}  // namespace vu
