// The memory of one backend connection: a sealed memfd (rings first, buffers behind), a private memfd with the queues'
// driver-side state and the whole control queue, and a kick and a call eventfd per ring. A new connection gets a new
// session.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "address_map.h"
#include "control_queue.h"
#include "mapping.h"
#include "memory_guard.h"
#include "queue_state.h"
#include "result.h"
#include "unique_fd.h"
#include "virtq.h"

namespace vu {

inline constexpr uint64_t kFeatureCsum = uint64_t{1} << 0;
inline constexpr uint64_t kFeatureHostTso4 = uint64_t{1} << 11;
inline constexpr uint64_t kFeatureHostTso6 = uint64_t{1} << 12;
inline constexpr uint64_t kFeatureHostEcn = uint64_t{1} << 13;
inline constexpr uint64_t kFeatureHostUfo = uint64_t{1} << 14;
inline constexpr uint64_t kFeatureMrgRxbuf = uint64_t{1} << 15;
inline constexpr uint64_t kFeatureCtrlVq = uint64_t{1} << 17;
inline constexpr uint64_t kFeatureIndirect = uint64_t{1} << 28;
inline constexpr uint64_t kFeatureEventIdx = uint64_t{1} << 29;
inline constexpr uint64_t kFeatureVersion1 = uint64_t{1} << 32;
inline constexpr uint64_t kFeatureRingPacked = uint64_t{1} << 34;
inline constexpr uint64_t kFeatureInOrder = uint64_t{1} << 35;
inline constexpr uint64_t kFeatureHostUso = uint64_t{1} << 56;

// Label of offset 0: gpa = userspace_addr. Any consistent value works; this one gives no address of ours away.
inline constexpr uint64_t kMemoryLabel = 0x7f0000000000;

// A transmitted frame is read into [head 2 KiB][tail 68 KiB]; the tail is consumed only by what the head cannot hold,
// so small frames stay dense. Every descriptor has its head and, with INDIRECT_DESC, its table. A large frame takes one
// tail and two descriptors, or one that names its table; N/2 tails are as many as a ring without tables can hold, and
// 34 MiB in flight are more than any backend leaves there. For N = 1024: 4 MiB receive + 2 MiB heads + 34 MiB tails +
// 32 KiB tables, touched lazily.
inline constexpr uint32_t kTxHeadBytes = 2048;
inline constexpr uint32_t kTxTailBytes = 68 * 1024;

// Receive buffers posted while little comes in. The window doubles when a burst uses half of it and comes back to
// this when it has been quiet: a ring hands out its buffers one after another, so that with all of them posted every
// idle port would end up with all of them touched by broadcasts (N = 1024: 4 MiB each).
inline constexpr uint16_t kRxWindowMin = 64;
// Entries of a vring, both kinds.
inline constexpr uint32_t kMaxQueueSize = 4096;

enum class MemoryKind : uint8_t { kMemfd, kHugetlb, kThp };

struct SessionOptions {
  uint32_t pairs = 1;
  uint32_t queueSize = 1024;
  uint32_t rxBufferBytes = 4096;
  uint64_t features = 0;
  MemoryKind memory = MemoryKind::kMemfd;
};

// The receive buffers of one pair: one per descriptor, `stride` apart.
struct RxBuffers {
  uint8_t* base = nullptr;
  uint64_t label = 0;
  // Of one buffer.
  uint32_t bytes = 0;
  uint32_t stride = 0;
  // Pages of buffers that nobody uses can be given back to the system.
  bool reclaim = false;

  uint8_t* host(uint16_t head) const noexcept { return base + size_t{stride} * head; }
  uint64_t labelOf(uint16_t head) const noexcept { return label + uint64_t{stride} * head; }
};

// Memory that the backend maps: a sealed memfd.
struct SharedRegion {
  std::shared_ptr<UniqueFd> fd = std::make_shared<UniqueFd>();
  Mapping mapping;
  MemoryGuard guard;
  uint64_t label = 0;
  // Of one receive buffer in this region.
  uint32_t rxBufferBytes = 0;
};

class Session {
 public:
  // What SET_MEM_TABLE can name, and so what addReceiveBuffers() can come to.
  static constexpr size_t kMaxRegions = AddressMap::kMaxRegions;

  // Receive buffers are posted and published. Errors: EINVAL (options), ENOMEM (no free huge pages), ENOSPC (huge pages
  // that the container may not have), EMFILE, …
  static Result<std::shared_ptr<Session>> create(const SessionOptions& options) noexcept;

  ~Session() { close(); }
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  const SessionOptions& options() const noexcept { return options_; }
  uint32_t ringCount() const noexcept { return options_.pairs * 2; }
  // 12 bytes with VERSION_1 or MRG_RXBUF, else 10.
  uint32_t headerBytes() const noexcept { return headerBytes_; }
  bool mergeable() const noexcept { return (options_.features & kFeatureMrgRxbuf) != 0; }
  bool eventIdx() const noexcept { return (options_.features & kFeatureEventIdx) != 0; }
  bool inOrder() const noexcept { return (options_.features & kFeatureInOrder) != 0; }
  bool indirect() const noexcept { return (options_.features & kFeatureIndirect) != 0; }
  bool packed() const noexcept { return (options_.features & kFeatureRingPacked) != 0; }

  int memoryFd() const noexcept { return regions_.front().fd->get(); }
  uint64_t memoryBytes() const noexcept { return memoryBytes_; }
  int stateFd() const noexcept { return stateFd_.get(); }
  int kickFd(uint32_t ring) const noexcept { return kicks_[ring]->get(); }
  int callFd(uint32_t ring) const noexcept { return calls_[ring]->get(); }
  // The same descriptors for those who pass them on; close() closes them for everybody.
  const std::shared_ptr<UniqueFd>& memory() const noexcept { return regions_.front().fd; }
  const std::shared_ptr<UniqueFd>& kick(uint32_t ring) const noexcept { return kicks_[ring]; }
  const std::shared_ptr<UniqueFd>& call(uint32_t ring) const noexcept { return calls_[ring]; }
  // Offsets; add kMemoryLabel for what goes on the wire. Packed: packedLayoutAt() says what lies in `avail` and `used`.
  const VringLayout& layout(uint32_t ring) const noexcept { return rings_[ring].vring; }

  // Below: only while mapped.
  bool mapped() const noexcept { return stateMemory_.data() != nullptr; }
  // An access found memory gone (huge pages: the backend can punch holes); there are zeros now, for us alone.
  bool memoryLost() const noexcept { return memoryLost_.load(std::memory_order_relaxed); }
  // Where the device of a ring should have stopped when it has completed all that it took. Split: used.idx. Packed:
  // slot and, in bit 15, wrap counter. That is the low half of what GET_VRING_BASE says.
  uint16_t expectedBase(uint32_t ring) const noexcept;
  Virtq virtq(uint32_t ring) const noexcept;
  QueueStateView state(uint32_t ring) const noexcept;
  // nullptr without CTRL_VQ.
  ControlQueue* control() noexcept { return control_ ? &*control_ : nullptr; }
  uint8_t* base() const noexcept { return regions_.front().mapping.data(); }
  const AddressMap& addresses() const noexcept { return addresses_; }
  // Adds a region with receive buffers of another size for every pair; what was posted stays where it is. The backend
  // must have mapped it before a pair uses it. Errors: EINVAL, ENOSPC (no region left), ENOMEM, EMFILE.
  Result<void> addReceiveBuffers(uint32_t rxBufferBytes) noexcept;
  // Takes the last addReceiveBuffers() back, while neither port nor backend has taken it into use. Errors: EBUSY.
  Result<void> dropReceiveBuffers() noexcept;
  // By a port: what was added stays from now on.
  void keepReceiveBuffers() noexcept { regionsInUse_ = regions_.size(); }
  // The memory above, then what was added, in order.
  const std::vector<SharedRegion>& regions() const noexcept { return regions_; }
  // Of a pair, in the region added last.
  RxBuffers rxBuffers(uint32_t pair) const noexcept;
  uint32_t tailCount() const noexcept { return tailCount_; }
  uint64_t rxOffset(uint32_t pair) const noexcept { return pairs_[pair].rx; }
  uint64_t txHeadOffset(uint32_t pair) const noexcept { return pairs_[pair].txHeads; }
  uint64_t txTailOffset(uint32_t pair) const noexcept { return pairs_[pair].txTails; }
  // DescTable::kBytes for every head; only with INDIRECT_DESC.
  uint64_t txTableOffset(uint32_t pair) const noexcept { return pairs_[pair].txTables; }

  // Ownership by a port: true when it was free.
  bool acquire() noexcept { return !owned_.exchange(true, std::memory_order_acq_rel); }
  void release() noexcept { owned_.store(false, std::memory_order_release); }
  bool owned() const noexcept { return owned_.load(std::memory_order_acquire); }
  // Unmaps and closes every descriptor. Idempotent. Never while owned.
  void close() noexcept;

 private:
  struct RingPlace {
    VringLayout vring;
    QueueStateLayout state;
  };
  struct PairPlace {
    uint64_t rx = 0;
    uint64_t txHeads = 0;
    uint64_t txTails = 0;
    uint64_t txTables = 0;
  };

  explicit Session(const SessionOptions& options) noexcept;
  uint64_t pageBytes() const noexcept;
  // `allocate`: bytes from the start that are to exist at once.
  Result<SharedRegion> share(uint64_t bytes, uint64_t allocate) noexcept;
  Result<void> createMemory() noexcept;
  Result<void> createState() noexcept;
  Result<void> createEvents() noexcept;
  void initQueues() noexcept;

  SessionOptions options_;
  uint32_t headerBytes_ = 0;
  uint32_t tailCount_ = 0;
  uint64_t ringBytes_ = 0;
  uint64_t memoryBytes_ = 0;
  uint64_t stateBytes_ = 0;
  std::vector<RingPlace> rings_;
  std::vector<PairPlace> pairs_;
  ControlLayout controlPlace_;
  std::atomic<bool> memoryLost_{false};
  std::vector<SharedRegion> regions_;
  size_t regionsInUse_ = 1;
  UniqueFd stateFd_;
  std::vector<std::shared_ptr<UniqueFd>> kicks_;
  std::vector<std::shared_ptr<UniqueFd>> calls_;
  Mapping stateMemory_;
  std::optional<ControlQueue> control_;
  AddressMap addresses_;
  std::atomic<bool> owned_{false};
};

}  // namespace vu
