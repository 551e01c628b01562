// Driver-side state of the queues: a private mapping beside the rings, never shared with the backend.
//
// It is authoritative: the descriptor table and the avail ring lie in memory that the backend can rewrite, so nothing
// is ever read back from there. It is a mapping and not heap so that a new agent process can take running rings over:
// everything is written before avail.idx is published, and heads found in no list were being delivered (receive) or
// filled (transmit) when the process died.
#pragma once

#include <cstddef>
#include <cstdint>

namespace vu {

inline constexpr uint32_t kStateMagic = 0x53515556;  // "VUQS"
inline constexpr uint16_t kStateVersion = 3;

struct StateHeader {
  uint32_t magic;
  uint16_t version;
  uint16_t headerBytes;
  uint32_t queueCount;
  uint32_t queueSize;
  uint32_t rxBufferBytes;
  uint32_t tailCount;
  uint64_t features;
  uint64_t memoryBytes;
  uint64_t stateBytes;
};

// One per descriptor, valid for heads. Zeroed: the head is not with the device.
struct HeadState {
  // Bytes posted: capacity (receive) or frame (transmit).
  uint32_t bytes;
  // Descriptors of the chain; 0 = not with the device.
  uint16_t chain;
  // Tail buffer that this chain refers to, or kNoTail.
  uint16_t tail;
};
static_assert(sizeof(HeadState) == 8);

inline constexpr uint16_t kNoTail = 0xffff;

// A chain as it was submitted. The device calls it `wire`: with IN_ORDER a split ring takes its descriptors in ring
// order (virtio 1.2, 2.7.5.1), whatever buffers they describe.
struct Submission {
  uint16_t wire;
  uint16_t head;
};
static_assert(sizeof(Submission) == 4);

struct alignas(64) QueueState {
  // avail.idx as published; packed: slot and wrap counter (bit 15) behind what is published.
  uint16_t availIdx;
  // Next used element to take; packed: slot and wrap counter.
  uint16_t lastUsed;
  // Top of the LIFO list of free descriptors, linked by next[]; transmit only.
  uint16_t freeHead;
  uint16_t freeCount;
  // Heads with the device.
  uint16_t outstanding;
  // Top of the LIFO list of free tails, linked by tailNext[]; transmit only.
  uint16_t freeTail;
  uint16_t freeTailCount;
  // Where in order[] the next submitted chain is recorded; with IN_ORDER only.
  uint16_t orderNext;
  // Chains of a batch (IN_ORDER) that its one used element has completed and that were not taken yet, and the length
  // of the last one.
  uint16_t batchLeft;
  uint32_t batchLen;
  // Split ring with IN_ORDER: the descriptor that the next chain begins with.
  uint16_t descriptorNext;
};

// Where the arrays of one queue lie in the state mapping, in bytes from its start.
struct QueueStateLayout {
  uint64_t queue = 0;
  uint64_t heads = 0;
  uint64_t next = 0;
  uint64_t order = 0;
  uint64_t tailNext = 0;
  uint64_t tailRefs = 0;
  uint64_t end = 0;

  static constexpr QueueStateLayout at(uint64_t base, uint32_t size, uint32_t tails) noexcept {
    QueueStateLayout layout;
    layout.queue = base;
    layout.heads = layout.queue + sizeof(QueueState);
    layout.next = layout.heads + sizeof(HeadState) * size;
    layout.order = (layout.next + 2 * uint64_t{size} + 3) / 4 * 4;
    layout.tailNext = layout.order + sizeof(Submission) * size;
    layout.tailRefs = layout.tailNext + 2 * uint64_t{tails};
    layout.end = (layout.tailRefs + 2 * uint64_t{tails} + 63) / 64 * 64;
    return layout;
  }
};

struct QueueStateView {
  QueueState* queue = nullptr;
  HeadState* heads = nullptr;
  uint16_t* next = nullptr;
  // Chains in the order of their submission: a ring of `size` entries; with IN_ORDER only.
  Submission* order = nullptr;
  uint16_t* tailNext = nullptr;
  uint16_t* tailRefs = nullptr;

  static QueueStateView over(uint8_t* state, const QueueStateLayout& layout) noexcept {
    return {reinterpret_cast<QueueState*>(state + layout.queue),  reinterpret_cast<HeadState*>(state + layout.heads),
            reinterpret_cast<uint16_t*>(state + layout.next),     reinterpret_cast<Submission*>(state + layout.order),
            reinterpret_cast<uint16_t*>(state + layout.tailNext), reinterpret_cast<uint16_t*>(state + layout.tailRefs)};
  }
};

}  // namespace vu
