// The control queue in software: driver side and device side of one ring (virtio 1.2, 5.1.6.5).
//
// How it works: the ring and the buffers of its commands lie in a region of their own behind the queues' state, which
// no backend ever gets. The driver side writes a chain {class, command | data | ack} as it would for a device in
// hardware; the device side trusts nothing of it, so that the same code serves a ring that somebody else writes. Every
// descriptor is copied once before it is judged. A chain that is wrong but names a place for its ack is answered with
// an error; any other ends the queue: broken() says why, and nothing is read or written from then on.
//
// One thread; kick and call are a function call of the owner's.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "address_map.h"
#include "queue_state.h"
#include "result.h"
#include "virtq.h"

namespace vu {

// Of DPDK's own control queue.
inline constexpr uint32_t kControlQueueSize = 64;
// Most data of one command: a table of 681 addresses.
inline constexpr uint32_t kControlDataBytes = 4096;
inline constexpr uint64_t kControlLabel = 0x7e0000000000;

inline constexpr uint8_t kControlOk = 0;
inline constexpr uint8_t kControlError = 1;

struct ControlCommand {
  uint8_t commandClass = 0;
  uint8_t command = 0;
  std::vector<uint8_t> data;
};

struct ControlAnswer {
  // What submit() returned.
  uint16_t token = 0;
  uint8_t ack = kControlError;
};

// Device side of the ring; lies in the state mapping beside the driver's.
struct alignas(64) ControlDeviceState {
  // Split: index of the next available entry, and the used index. Packed: cursors (PackedCursor::encoded()).
  uint16_t availNext;
  uint16_t usedNext;
};

// Where it lies in the state mapping, in bytes from its start.
struct ControlLayout {
  uint64_t device = 0;
  QueueStateLayout driver;
  // The region: ring first, then one slot per descriptor.
  uint64_t region = 0;
  VringLayout vring;
  uint64_t slots = 0;
  uint64_t end = 0;

  static ControlLayout at(uint64_t base, bool packed) noexcept;
};

class ControlQueue {
 public:
  // `state`: the zeroed mapping that `layout` was made for; it outlives this.
  ControlQueue(uint8_t* state, const ControlLayout& layout, bool packed, bool inOrder) noexcept;

  const char* broken() const noexcept;

  // Driver side. Errors: ENOSPC (too many commands on their way), EMSGSIZE (data), EPIPE (broken).
  Result<uint16_t> submit(const ControlCommand& command) noexcept;
  // The next answer; empty: none, or broken.
  std::optional<ControlAnswer> takeAnswer() noexcept;

  // Device side: the next command that is well-formed; others are answered here. Empty: none, one is being served, or
  // broken.
  std::optional<ControlCommand> next() noexcept;
  // Answers the command that next() returned.
  void complete(uint8_t ack) noexcept;

 private:
  // A chain as copied from the ring, after all checks.
  struct Chain {
    // Split: head. Packed: buffer id.
    uint16_t id = 0;
    uint16_t descriptors = 0;
    uint8_t* ack = nullptr;
    std::vector<uint8_t> readable;
    // Why it is refused, or nullptr.
    const char* fault = nullptr;
  };
  struct Descriptor {
    uint64_t label;
    uint32_t len;
    uint16_t flags;
    // Split: next descriptor. Packed: buffer id.
    uint16_t link;
  };

  bool read(Chain& chain) noexcept;
  bool readSplit(Chain& chain) noexcept;
  bool readPacked(Chain& chain) noexcept;
  // Adds one descriptor to the chain. false: the queue is broken.
  bool add(Chain& chain, const Descriptor& descriptor) noexcept;
  void use(const Chain& chain, uint8_t ack) noexcept;
  bool breakQueue(const char* reason) noexcept {
    broken_ = reason;
    return false;
  }
  uint8_t* slotOf(uint16_t head) const noexcept { return slots_ + size_t{kSlotBytes} * head; }
  uint64_t labelOf(const uint8_t* host) const noexcept { return kControlLabel + static_cast<uint64_t>(host - region_); }

  // A slot: ack, header, data. The usual command touches its first cache line only.
  static constexpr uint32_t kAckBytes = 1;
  static constexpr uint32_t kHeaderBytes = 2;
  static constexpr uint32_t kSlotBytes = (kAckBytes + kHeaderBytes + kControlDataBytes + 63) / 64 * 64;
  friend struct ControlLayout;

  const bool packed_;
  uint8_t* const region_;
  uint8_t* const slots_;
  AddressMap addresses_;
  Vring split_;
  PackedRing packedRing_;
  ControlDeviceState* const device_;
  Virtq driver_;
  std::optional<Chain> serving_;
  const char* broken_ = nullptr;
};

}  // namespace vu
