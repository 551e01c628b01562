#include "session.h"

#include <fcntl.h>
#include <linux/memfd.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#include <bit>

namespace vu {
namespace {

constexpr uint64_t kHugePageBytes = uint64_t{2} << 20;
constexpr unsigned kMfdNoexecSeal = 0x0008U;  // Linux 6.3

Result<UniqueFd> createMemfd(const char* name, unsigned flags) noexcept {
  UniqueFd fd(::memfd_create(name, flags | MFD_CLOEXEC | kMfdNoexecSeal));
  if (!fd && errno == EINVAL) fd.reset(::memfd_create(name, flags | MFD_CLOEXEC));
  if (!fd) return lastFault("memfd_create");
  return fd;
}

// fallocate(2) gives up for any signal, and the JavaScript thread gets some.
int allocateFile(int fd, uint64_t bytes) noexcept {
  int result = 0;
  do result = ::fallocate(fd, 0, 0, static_cast<off_t>(bytes));
  while (result != 0 && errno == EINTR);
  return result;
}

bool validRxBuffer(uint32_t bytes) noexcept { return bytes >= 2048 && bytes <= 69632; }

// Receive buffers begin on a cache line.
uint64_t strideOf(uint32_t rxBufferBytes) noexcept { return alignUp(rxBufferBytes, 64); }

bool valid(const SessionOptions& options) noexcept {
  return options.pairs >= 1 && options.pairs <= 256 && options.queueSize >= 64 && options.queueSize <= kMaxQueueSize &&
         std::has_single_bit(options.queueSize) &&
         // Packed rings know no legacy form (virtio 1.2, section 6).
         ((options.features & kFeatureRingPacked) == 0 || (options.features & kFeatureVersion1) != 0) &&
         validRxBuffer(options.rxBufferBytes);
}

}  // namespace

Session::Session(const SessionOptions& options) noexcept : options_(options) {
  headerBytes_ = (options.features & (kFeatureVersion1 | kFeatureMrgRxbuf)) != 0 ? 12 : 10;
  tailCount_ = options.queueSize / 2;
  uint64_t offset = 0;
  uint64_t stateOffset = alignUp(sizeof(StateHeader), 64);
  for (uint32_t ring = 0; ring < options.pairs * 2; ++ring) {
    RingPlace place;
    place.vring = packed() ? packedLayoutAt(offset, options.queueSize) : VringLayout::at(offset, options.queueSize);
    place.state = QueueStateLayout::at(stateOffset, options.queueSize, ring % 2 == 1 ? tailCount_ : 0);
    offset = place.vring.end;
    stateOffset = place.state.end;
    rings_.push_back(place);
  }
  ringBytes_ = offset;
  for (uint32_t pair = 0; pair < options.pairs; ++pair) {
    PairPlace place;
    place.rx = offset;
    place.txHeads = alignUp(place.rx + strideOf(options.rxBufferBytes) * options.queueSize, kPageBytes);
    place.txTails = place.txHeads + uint64_t{kTxHeadBytes} * options.queueSize;
    place.txTables = place.txTails + uint64_t{kTxTailBytes} * tailCount_;
    offset = place.txTables;
    if (indirect()) offset = alignUp(offset + uint64_t{DescTable::kBytes} * options.queueSize, kPageBytes);
    pairs_.push_back(place);
  }
  memoryBytes_ = alignUp(offset, pageBytes());
  if ((options.features & kFeatureCtrlVq) != 0) {
    controlPlace_ = ControlLayout::at(stateOffset, packed());
    stateOffset = controlPlace_.end;
  }
  stateBytes_ = alignUp(stateOffset, kPageBytes);
}

Result<std::shared_ptr<Session>> Session::create(const SessionOptions& options) noexcept {
  if (!valid(options)) return Fault{EINVAL, "session options"};
  std::shared_ptr<Session> session(new Session(options));
  if (auto made = session->createMemory(); !made) return made.fault();
  if (auto made = session->createState(); !made) return made.fault();
  if (auto made = session->createEvents(); !made) return made.fault();
  session->initQueues();
  return session;
}

uint64_t Session::pageBytes() const noexcept {
  return options_.memory == MemoryKind::kHugetlb ? kHugePageBytes : kPageBytes;
}

Result<SharedRegion> Session::share(uint64_t bytes, uint64_t allocate) noexcept {
  const bool huge = options_.memory == MemoryKind::kHugetlb;
  SharedRegion region;
  auto fd = createMemfd("vu-session", MFD_ALLOW_SEALING | (huge ? MFD_HUGETLB | MFD_HUGE_2MB : 0U));
  if (!fd) return fd.fault();
  *region.fd = std::move(fd).value();
  if (::ftruncate(region.fd->get(), static_cast<off_t>(bytes)) != 0) return lastFault("ftruncate session memory");
  // A file that nobody can shrink cannot turn an access of ours into SIGBUS. A hole in huge pages can: the guard's.
  if (::fcntl(region.fd->get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return lastFault("seal session memory");
  }
  auto mapping = Mapping::shared(region.fd->get(), bytes, huge ? "reserve 2 MB huge pages" : "mmap session memory");
  if (!mapping) return mapping.fault();
  region.mapping = std::move(mapping).value();
  // mmap has reserved all huge pages at once, or none; a container's limit is asked for each page that is taken, which
  // at the first touch would be SIGBUS.
  const uint64_t now = huge ? bytes : allocate;
  if (now != 0 && allocateFile(region.fd->get(), now) != 0) {
    return lastFault(huge ? "fallocate 2 MB huge pages" : "fallocate rings");
  }
  if (options_.memory == MemoryKind::kThp && ::madvise(region.mapping.data(), bytes, MADV_HUGEPAGE) != 0) {
    return lastFault("madvise MADV_HUGEPAGE");
  }
  region.guard = MemoryGuard(region.mapping.data(), bytes, pageBytes(), &memoryLost_);
  return region;
}

Result<void> Session::createMemory() noexcept {
  auto region = share(memoryBytes_, ringBytes_);
  if (!region) return region.fault();
  regions_.push_back(std::move(region).value());
  regions_.back().label = kMemoryLabel;
  regions_.back().rxBufferBytes = options_.rxBufferBytes;
  addresses_.add(AddressRegion{kMemoryLabel, memoryBytes_, base()});
  return {};
}

Result<void> Session::addReceiveBuffers(uint32_t rxBufferBytes) noexcept {
  if (!mapped() || !validRxBuffer(rxBufferBytes)) return Fault{EINVAL, "receive buffers"};
  if (regions_.size() == kMaxRegions) return Fault{ENOSPC, "regions of session memory"};
  const uint64_t perPair = alignUp(strideOf(rxBufferBytes) * options_.queueSize, kPageBytes);
  const uint64_t bytes = alignUp(perPair * options_.pairs, pageBytes());
  auto region = share(bytes, 0);
  if (!region) return region.fault();
  const SharedRegion& last = regions_.back();
  // A gap between labels: a length that is wrong by one meets no other region.
  const uint64_t label = alignUp(last.label + last.mapping.size(), kHugePageBytes) + kHugePageBytes;
  if (!addresses_.add(AddressRegion{label, bytes, region.value().mapping.data()})) {
    return Fault{ENOSPC, "labels of session memory"};
  }
  regions_.push_back(std::move(region).value());
  regions_.back().label = label;
  regions_.back().rxBufferBytes = rxBufferBytes;
  return {};
}

Result<void> Session::dropReceiveBuffers() noexcept {
  if (regions_.size() <= regionsInUse_) return Fault{EBUSY, "receive buffers in use"};
  regions_.back().fd->reset();
  regions_.pop_back();
  addresses_.removeLast();
  return {};
}

RxBuffers Session::rxBuffers(uint32_t pair) const noexcept {
  const SharedRegion& region = regions_.back();
  const uint64_t stride = strideOf(region.rxBufferBytes);
  const uint64_t offset =
      regions_.size() == 1 ? pairs_[pair].rx : alignUp(stride * options_.queueSize, kPageBytes) * pair;
  return RxBuffers{region.mapping.data() + offset, region.label + offset, region.rxBufferBytes,
                   static_cast<uint32_t>(stride), options_.memory == MemoryKind::kMemfd && stride % kPageBytes == 0};
}

Result<void> Session::createState() noexcept {
  auto fd = createMemfd("vu-queue-state", MFD_ALLOW_SEALING);
  if (!fd) return fd.fault();
  stateFd_ = std::move(fd).value();
  if (::ftruncate(stateFd_.get(), static_cast<off_t>(stateBytes_)) != 0) return lastFault("ftruncate queue state");
  if (::fcntl(stateFd_.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return lastFault("seal queue state");
  }
  auto mapping = Mapping::shared(stateFd_.get(), stateBytes_, "mmap queue state");
  if (!mapping) return mapping.fault();
  stateMemory_ = std::move(mapping).value();
  auto* header = reinterpret_cast<StateHeader*>(stateMemory_.data());
  *header = StateHeader{kStateMagic, kStateVersion,      static_cast<uint16_t>(headerBytes_),
                        ringCount(), options_.queueSize, options_.rxBufferBytes,
                        tailCount_,  options_.features,  memoryBytes_,
                        stateBytes_};
  return {};
}

Result<void> Session::createEvents() noexcept {
  for (uint32_t ring = 0; ring < ringCount(); ++ring) {
    kicks_.push_back(std::make_shared<UniqueFd>(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)));
    if (!kicks_.back()->valid()) return lastFault("eventfd kick");
    calls_.push_back(std::make_shared<UniqueFd>(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)));
    if (!calls_.back()->valid()) return lastFault("eventfd call");
  }
  return {};
}

void Session::initQueues() noexcept {
  if ((options_.features & kFeatureCtrlVq) != 0) {
    control_.emplace(stateMemory_.data(), controlPlace_, packed(), inOrder());
  }
  for (uint32_t pair = 0; pair < options_.pairs; ++pair) {
    if (packed()) {
      for (const uint32_t ring : {2 * pair, 2 * pair + 1}) {
        state(ring).queue->availIdx = kPackedStart;
        state(ring).queue->lastUsed = kPackedStart;
      }
    }
    Virtq rx = virtq(2 * pair);
    // Buffers that are not posted wait in the free list; each keeps its descriptor for good.
    rx.initFreeList();
    const RxBuffers buffers = rxBuffers(pair);
    for (uint32_t i = 0; i < kRxWindowMin; ++i) {
      const uint16_t index = rx.allocate();
      rx.describe(index, buffers.labelOf(index), options_.rxBufferBytes, kDescWrite, 0);
      rx.submit(index, 1, options_.rxBufferBytes, kNoTail);
    }
    rx.publish();

    Virtq tx = virtq(2 * pair + 1);
    tx.initFreeList();
    const QueueStateView view = state(2 * pair + 1);
    for (uint32_t i = 0; i < tailCount_; ++i) view.tailNext[i] = static_cast<uint16_t>(i + 1);
    view.queue->freeTail = 0;
    view.queue->freeTailCount = static_cast<uint16_t>(tailCount_);
    // Used transmit buffers are reaped on the way; calls are wanted only while a full ring waits.
    tx.startWithoutCalls();
  }
}

uint16_t Session::expectedBase(uint32_t ring) const noexcept { return virtq(ring).deviceUsed(); }

Virtq Session::virtq(uint32_t ring) const noexcept {
  const VringLayout& layout = rings_[ring].vring;
  const VirtqFeatures features{eventIdx(), inOrder()};
  if (packed()) {
    return Virtq(PackedVirtq(PackedRing::over(base(), layout, options_.queueSize), state(ring), features));
  }
  return Virtq(SplitVirtq(Vring::over(base(), layout, options_.queueSize), state(ring), features));
}

QueueStateView Session::state(uint32_t ring) const noexcept {
  return QueueStateView::over(stateMemory_.data(), rings_[ring].state);
}

void Session::close() noexcept {
  control_.reset();
  for (SharedRegion& region : regions_) {
    region.guard.reset();
    region.mapping.reset();
    region.fd->reset();
  }
  stateMemory_.reset();
  stateFd_.reset();
  for (auto& kick : kicks_) kick->reset();
  for (auto& call : calls_) call->reset();
}

}  // namespace vu
