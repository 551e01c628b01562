// One TAP queue and one pair of vrings: moves frames between them. Belongs to one pump thread.
//
// Everything here runs on the owning pump thread, except counters() and the constructor. No allocation, no lock and no
// log per frame.
#pragma once

#include <sys/uio.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "coalesce.h"
#include "counters.h"
#include "datagram_runs.h"
#include "kicker.h"
#include "rx_filter.h"
#include "segment.h"
#include "session.h"
#include "stream_copy.h"
#include "tx_way.h"
#include "unique_fd.h"
#include "virtq.h"
#include "write_batch.h"

namespace vu {

// kick-blocked: the backend made its kick eventfd such that a write to it blocks.
// memory-lost: shared memory that was there is gone (Session::memoryLost()).
// backend-stalled: it has used nothing of what waits in a transmit ring for kStallSeconds; told again after as long.
enum class PortEventKind : uint8_t { kRingCorrupt, kKickBlocked, kMemoryLost, kTapGone, kBackendStalled };

// What the pairs of one port share across pumps.
struct PortShared {
  // A ring or a kick broke: every pair lets the session alone, whichever pump it lives on.
  std::atomic<bool> broken{false};
  std::atomic<bool> tapGone{false};
  // Called on a pump thread; of kRingCorrupt, kKickBlocked and kMemoryLost one, once per start, as kTapGone. `reason`
  // is a literal.
  std::function<void(PortEventKind, const char*)> listener;
};

struct StartOptions {
  bool softwareGso = false;
  bool softwareChecksum = false;
  bool softwareGro = false;
  uint32_t activePairs = 1;
};

// What a write in the pump's batch stands for: so many frames of the backend, and their Ethernet bytes.
struct QueuedWrite {
  uint32_t frames = 0;
  uint64_t bytes = 0;
  bool datagrams = false;
};

class QueuePair;

enum class WatchKind : uint8_t { kTap, kCall };
// What an epoll event points at.
struct Watch {
  QueuePair* pair = nullptr;
  WatchKind kind = WatchKind::kTap;
};

// Work space of one pump thread, lent to the pair whose round it is.
struct PumpScratch;

// How a pair reaches its pump; all on the pump thread.
struct PumpContext {
  int epollFd = -1;
  PumpScratch* scratch = nullptr;
  Kicker* kicker = nullptr;
  // Running pairs: the pump looks at them by itself once a second.
  uint32_t running = 0;
  // Sleeping pairs that wait for room in their transmit ring: these want the 100 ms fallback (a call may never come).
  uint32_t blocked = 0;
  // Pairs whose call eventfd is muted because of a storm: looked at every 10 ms.
  uint32_t muted = 0;
  // Of the time since the pump last let go of its core: writes to pods, and whether the datagrams for one of them must
  // nearly fill a socket.
  uint32_t delivered = 0;
  bool socketFull = false;
  // Counts how often it did.
  uint32_t turn = 0;
};

// retired: it has a session, its rings are disabled, and its TAP queue is detached (VIRTIO_NET_CTRL_MQ).
enum class PairState : uint8_t { kHeld, kRunning, kRetired, kDiscarding, kFailed };

class QueuePair {
 public:
  // A burst in one direction: so many frames, or so many bytes. While one lasts the other rings of the pump wait: with
  // 64 frames of 64 KiB that was a millisecond, in which the switch filled a receive ring.
  static constexpr uint32_t kBurst = 64;
  static constexpr uint32_t kBurstBytes = 1024 * 1024;
  // Small frames of the pod that are published together.
  static constexpr uint16_t kPublishBatch = 8;
  static constexpr uint32_t kMaxFrameBuffers = 64;
  static constexpr uint32_t kStallSeconds = 5;
  // Longest frame a TAP can be given or give: 64 KiB of IP, Ethernet, two VLAN tags, vnet header; virtio 1.2, 5.1.6.3.
  static constexpr uint32_t kMaxFrameBytes = 65589 + 12;

  QueuePair(UniqueFd tap, uint32_t index, std::shared_ptr<PortShared> shared) noexcept;
  QueuePair(const QueuePair&) = delete;
  QueuePair& operator=(const QueuePair&) = delete;

  uint32_t index() const noexcept { return index_; }
  int tapFd() const noexcept { return tap_.get(); }
  const PairCounters& counters() const noexcept { return counters_; }

  void attach(PumpContext* pump) noexcept { pump_ = pump; }
  // Lets the TAP queue go. After stop().
  void closeTap() noexcept { tap_.reset(); }
  // From the next frame on. Outlives sessions; nullptr passes everything.
  void setRxFilter(std::shared_ptr<const RxFilter> filter) noexcept { filter_ = std::move(filter); }

  // held → running, or retired when its index is none of `options.activePairs`. Kicks both rings once. `shared` is of
  // this start: what an earlier session did is forgotten.
  void start(std::shared_ptr<Session> session, std::shared_ptr<PortShared> shared,
             const StartOptions& options) noexcept;
  // Before its TAP queue is detached: sends what waits in it and reads no more. Receiving goes on.
  void finishTransmit() noexcept;
  // running, after finishTransmit() → retired: its rings are disabled; what they received is delivered.
  void retire() noexcept;
  // retired, or transmitting no more → running: its rings are enabled and its TAP queue is attached.
  void enlist() noexcept;
  // With a session: buffers posted from now on are these, which the backend has mapped. What is posted stays valid.
  void useReceiveBuffers(const RxBuffers& buffers) noexcept;
  // any → held. Counts what is in flight as lost; the session is not touched any more.
  void stop() noexcept;
  // held → discarding.
  void discard() noexcept;
  void inject(const uint8_t* frame, uint32_t bytes) noexcept;

  // One burst in each direction. Returns the units of work done; 0 = nothing to do.
  uint32_t round() noexcept;
  bool pumpable() const noexcept { return state_ == PairState::kRunning || state_ == PairState::kDiscarding; }
  // Before sleep: asks for events and looks once more. false: nothing to do, an event will come.
  bool arm() noexcept;
  // An event came, or somebody wants a look.
  void wake() noexcept;
  // The timed look: is there something that no event announced?
  bool overdue() noexcept;
  // A call that brought no work; more than a storm's worth in one second mutes the call eventfd.
  void fruitlessCall(uint64_t nowNs) noexcept;
  void unmute(uint64_t nowNs) noexcept;
  // About once a second: a ring that has been quiet for a while posts few buffers again, and a backend that takes
  // nothing is told of.
  void settle() noexcept;

  PairState state() const noexcept { return state_; }

  // Bookkeeping of the owning pump.
  bool active = false;
  // By a call since the last round that did something.
  bool woken = false;
  // By any event since the last round began.
  bool signalled = false;
  uint32_t fruitless = 0;
  void countSpin() noexcept { counters_.event(Event::kSpins); }
  void countCall() noexcept { counters_.event(Event::kCalls); }

 private:
  // A received frame as far as its buffers are used; kept across wake-ups.
  struct RxFrame {
    // Buffers that make up the frame; 0 = no frame begun.
    uint16_t want = 0;
    uint16_t have = 0;
    bool bad = false;
    Drop verdict = Drop::kRxInvalid;
    uint32_t bytes = 0;
    std::array<uint16_t, kMaxFrameBuffers> heads{};
    std::array<uint32_t, kMaxFrameBuffers> lens{};
  };
  enum class Assembled : uint8_t { kFrame, kBad, kNothing };

  // Receive (rx_path.cc).
  uint32_t rxBurst() noexcept;
  Assembled assemble() noexcept;
  bool beginFrame(const UsedHead& used) noexcept;
  void spoil(Drop reason) noexcept;
  void strike() noexcept;
  void giveBack(uint16_t head) noexcept;
  void gatherFrame() noexcept;
  void deliver() noexcept;
  void letGo() noexcept;
  void abandonBurst() noexcept;
  bool passesFilter() const noexcept;
  void repost(uint16_t head) noexcept;
  void publishRx() noexcept;
  void park(uint16_t head) noexcept;
  void growRxWindow() noexcept;
  void settleRxWindow() noexcept;
  void queueWrite(const CoalescedFrame& frame) noexcept;
  void submitWrites() noexcept;
  void account(const QueuedWrite& write, int64_t result) noexcept;
  void countDatagrams(const QueuedWrite& write) noexcept;
  void returnBuffers() noexcept;

  // Receive in software (rx_software.cc): consecutive TCP segments or UDP datagrams are written as one frame.
  void coalesce() noexcept;
  void writeCoalesced(const CoalescedFrame& frame) noexcept;
  void flushCoalesced() noexcept;

  // A frame of the pod that is being segmented: kept while the ring has no room for the rest.
  struct TxSegmentation {
    bool active = false;
    uint16_t tail = 0;
    uint32_t next = 0;
    // Its Ethernet frame: in the scratch while that has not been used again, then in the tail.
    const uint8_t* frame = nullptr;
    SegmentPlan plan;
  };

  // Transmit in software (tx_software.cc).
  void beginSegments(const VnetHdr& header, uint32_t bytes) noexcept;
  bool emitSegments() noexcept;
  void keepSegments() noexcept;
  void dropSegmentation() noexcept;

  // Transmit (tx_path.cc).
  uint32_t txBurst() noexcept;
  bool haveTxRoom() noexcept;
  uint32_t reap() noexcept;
  bool backendTakes(uint8_t flags, uint8_t gsoType) const noexcept;
  std::optional<uint32_t> readFrame(bool straight) noexcept;
  void transmit(uint32_t bytes, bool straight) noexcept;
  void submitFrame(uint32_t bytes, bool straight) noexcept;
  void copyFrame(uint32_t bytes, uint16_t head, uint16_t tail) noexcept;
  void submitChain(uint16_t head, uint32_t headBytes, uint64_t slice, uint32_t sliceBytes, uint16_t tail) noexcept;
  bool readFailed() noexcept;
  bool makeTxRoom() noexcept;
  void publishTx() noexcept;
  uint16_t takeTail() noexcept;
  void dropTail(uint16_t tail) noexcept;
  uint32_t discardBurst() noexcept;
  void watchForStall() noexcept;

  // Common (queue_pair.cc).
  void fail(const char* reason) noexcept;
  void breakPort(PortEventKind kind, const char* reason) noexcept;
  void loseMemory() noexcept;
  void tapGone(const char* reason) noexcept;
  void kick(int fd, Virtq& queue) noexcept;
  void writeKick(int fd) noexcept;
  void setBlocked(bool blocked) noexcept;
  bool watch(int fd, Watch& watch) noexcept;
  void unwatch(int fd) noexcept;
  void watchCalls() noexcept;
  void unwatchCalls() noexcept;
  void watchAgain() noexcept;
  bool wantsTap() const noexcept;
  void setTapInterest(bool on) noexcept;
  template <typename Burst>
  void exhaust(Burst burst) noexcept;
  void enter() noexcept;
  void kickAlways() noexcept;
  void leave() noexcept;
  const RxBuffers& rxPlace(uint16_t head) const noexcept {
    return rxPlaces_[rxPlaceCount_ == 1 ? 0 : rxPlaceOf_[head]];
  }
  uint8_t* rxBuffer(uint16_t head) const noexcept { return rxPlace(head).host(head); }
  void describeRx(uint16_t head) noexcept;
  uint8_t* txHead(uint16_t head) const noexcept { return headBase_ + size_t{kTxHeadBytes} * head; }
  DescTable txTable(uint16_t head) const noexcept {
    const size_t offset = size_t{DescTable::kBytes} * head;
    return {tableBase_ + offset, tableLabel_ + offset};
  }
  uint8_t* txTail(uint16_t tail) const noexcept { return tailBase_ + size_t{kTxTailBytes} * tail; }

  PairState state_ = PairState::kHeld;
  bool mergeable_ = false;
  // The backend lacks no offload: the pod's frames go on as they are.
  bool untouched_ = false;
  bool txBlocked_ = false;
  bool tapWatched_ = false;
  bool callsWatched_ = false;
  bool tapSuspended_ = false;
  bool muted_ = false;
  bool counted_ = false;
  // The TAP queue is, or will be, detached: nothing is read from it. Writing to it still reaches the pod.
  bool detached_ = false;
  uint32_t headerBytes_ = 12;
  // Where receive buffers have been in this session; new ones are posted from the last. While there is one place only,
  // nobody asks which buffer is where.
  std::array<RxBuffers, Session::kMaxRegions> rxPlaces_{};
  uint32_t rxPlaceCount_ = 0;
  std::vector<uint8_t> rxPlaceOf_;
  Virtq rx_;
  Virtq tx_;
  QueueStateView txState_;
  uint8_t* headBase_ = nullptr;
  uint8_t* tailBase_ = nullptr;
  // nullptr without INDIRECT_DESC.
  uint8_t* tableBase_ = nullptr;
  uint64_t headLabel_ = 0;
  uint64_t tailLabel_ = 0;
  uint64_t tableLabel_ = 0;
  // Descriptors that a frame may need.
  uint16_t txSlots_ = 2;
  uint64_t features_ = 0;
  StartOptions options_;
  PumpContext* pump_ = nullptr;
  UniqueFd tap_;
  std::shared_ptr<const RxFilter> filter_;
  uint32_t index_ = 0;
  int kickRx_ = -1;
  int kickTx_ = -1;
  int callRx_ = -1;
  int callTx_ = -1;
  std::shared_ptr<PortShared> shared_;
  std::shared_ptr<Session> session_;
  Watch tapWatch_;
  Watch callWatch_;
  RxFrame frame_;
  // Receive buffers that shall be posted; the others wait in the free list of rx_.
  uint16_t rxWindow_ = kRxWindowMin;
  // What the pod's datagrams of the pump's turn `socketTurn_` take of a socket's receive buffer.
  uint64_t socketBytes_ = 0;
  uint32_t socketTurn_ = 0;
  // Buffers taken since the ring was last empty or grew, and the most of that since the last settle().
  uint16_t rxTaken_ = 0;
  uint16_t rxBurstMost_ = 0;
  uint16_t quietSeconds_ = 0;
  TxSegmentation segmentation_;
  // Chains that the backend has used, at all and when watchForStall() last looked.
  uint64_t reaped_ = 0;
  uint64_t reapedSeen_ = 0;
  uint32_t stalledSeconds_ = 0;
  // Misbehaviour that is forgiven up to a rate: F33 lengths, fruitless calls.
  uint64_t strikeWindowNs_ = 0;
  uint32_t strikes_ = 0;
  // Of the receive ring and the transmit ring, in succession.
  std::array<uint32_t, 2> slowKicks_{};
  uint64_t callWindowNs_ = 0;
  uint32_t fruitlessCalls_ = 0;
  PairCounters counters_;
};

inline constexpr uint64_t kSecondNs = 1'000'000'000;
// CLOCK_MONOTONIC in nanoseconds.
uint64_t monotonicNs() noexcept;

static_assert(WriteBatch::kMostParts >= Coalescer::kMaxParts && WriteBatch::kMostParts >= QueuePair::kMaxFrameBuffers);
static_assert(WriteBatch::kMostCopiedBytes >= sizeof(VnetHdr) + Segment::kHeaderRoom);

struct PumpScratch {
  std::array<iovec, QueuePair::kMaxFrameBuffers> parts;
  WriteBatch writes;
  std::array<QueuedWrite, WriteBatch::kMostWrites> queued;
  // Runs of segments within one burst.
  FlowTable flows{kernelTakesDatagramRuns()};
  // Buffers of the burst that go back to the backend when their frames are written, in the order in which they came.
  // None comes twice before it has gone back.
  std::array<uint16_t, kMaxQueueSize> returned;
  uint32_t returnedCount = 0;
  TxWay way;
  // The frame of a pod on its way to a transmit buffer: vnet header and Ethernet frame.
  alignas(kStreamUnit) std::array<uint8_t, kTxTailBytes> frame;
};

}  // namespace vu
