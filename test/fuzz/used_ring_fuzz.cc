// The fuzzer is the device: it completes buffers, lies in the used rings and flips any byte of the shared memory while
// a queue pair runs on it. Whatever it does, the pair neither leaves its memory nor loops, and its books balance.
//
//   clang++ -fsanitize=fuzzer,address,undefined; the first two bytes choose the options, the rest is a list of
//   operations.
#include <sys/epoll.h>
#include <sys/socket.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "../native/tcp_frames.h"
#include "input.h"
#include "queue_pair.h"

namespace {

using namespace vu;
using vu::test::Input;

constexpr uint32_t kSize = 64;

// An honest device would do this; the fuzzer decides when and with what values.
class Device {
 public:
  Device(const Session& session, uint32_t ring)
      : session_(session),
        packed_(session.packed()),
        split_(Vring::over(session.base(), session.layout(ring), kSize)),
        ring_(PackedRing::over(session.base(), session.layout(ring), kSize)) {}

  // Takes a chain: its name, and its first buffer of `bytes` or nullptr where the fuzzer has rewritten the descriptor.
  bool pop(uint16_t& head, uint8_t*& buffer, uint64_t bytes) {
    uint64_t label = 0;
    if (packed_) {
      const uint32_t first = avail_ % kSize;
      const bool wrap = avail_ / kSize % 2 == 0;
      const uint16_t flags = loadAcquire(&ring_.desc[first].flags);
      if (((flags & kPackedAvail) != 0) != wrap || ((flags & kPackedUsed) != 0) == wrap) return false;
      label = ring_.desc[first].addr;
      uint32_t last = first;
      uint16_t slots = 1;
      while (slots < kSize && (ring_.desc[last].flags & kDescNext) != 0) {
        last = (last + 1) % kSize;
        ++slots;
      }
      head = ring_.desc[last].id % kSize;
      slots_[head] = slots;
      avail_ += slots;
    } else {
      if (loadAcquire(split_.availIdx) == static_cast<uint16_t>(avail_)) return false;
      head = static_cast<uint16_t>(split_.availRing[avail_++ % kSize] % kSize);
      label = split_.desc[head].addr;
    }
    buffer = session_.addresses().host(label, bytes);
    return true;
  }
  void push(uint32_t id, uint32_t len) {
    if (!packed_) {
      split_.usedRing[used_++ % kSize] = VringUsedElem{id, len};
      return;
    }
    PackedDesc& desc = ring_.desc[used_ % kSize];
    desc.id = static_cast<uint16_t>(id);
    desc.len = len;
    unpublished_[count_++ % kSize] = used_;
    used_ += slots_[id % kSize];
  }
  // What a batch leaves out: the place moves on, nothing is written.
  void skip(uint16_t head) { used_ += packed_ ? slots_[head] : 1; }
  void publish() {
    if (!packed_) {
      storeRelease(split_.usedIdx, static_cast<uint16_t>(used_));
      return;
    }
    for (uint32_t i = 0; i < count_ && i < kSize; ++i) {
      const uint64_t place = unpublished_[i];
      storeRelease(&ring_.desc[place % kSize].flags,
                   place / kSize % 2 == 0 ? uint16_t{kPackedAvail | kPackedUsed} : uint16_t{0});
    }
    count_ = 0;
  }
  // The word by which a driver sees that something was used.
  void scribble(uint8_t slot, uint16_t value) {
    storeRelease(packed_ ? &ring_.desc[slot % kSize].flags : split_.usedIdx, value);
  }

 private:
  const Session& session_;
  bool packed_;
  Vring split_;
  PackedRing ring_;
  uint64_t avail_ = 0;
  uint64_t used_ = 0;
  // Packed: slots of the chain of each id, and places whose flags publish() has to write.
  std::array<uint16_t, kSize> slots_ = filled();
  std::array<uint64_t, kSize> unpublished_{};
  uint32_t count_ = 0;

  static std::array<uint16_t, kSize> filled() {
    std::array<uint16_t, kSize> ones;
    ones.fill(1);
    return ones;
  }
};

// Where the last TCP frame ended, so that the next one may follow it.
struct Flow {
  test::TcpSpec last;
};

// A TCP frame that is right but for up to three bytes.
std::vector<uint8_t> almostTcp(Input& input, Flow& flow, uint32_t maxPayload, bool mayBeLarge) {
  const uint8_t kind = input.byte();
  test::TcpSpec spec;
  spec.ipv6 = (kind & 1) != 0;
  spec.checksummed = (kind & 2) != 0;
  spec.vlanTags = (kind >> 2) & 3;
  spec.payload = input.word() % maxPayload;
  spec.seq = input.byte() * 500U;
  spec.flags = static_cast<uint8_t>(0x10 | (input.byte() & 0x89));
  if (mayBeLarge && (kind & 16) != 0) spec.gsoSize = static_cast<uint16_t>(input.byte() * 10);
  if ((kind & 32) != 0) {
    const uint32_t next = flow.last.seq + flow.last.payload;
    const uint8_t flags = spec.flags;
    spec = flow.last;
    spec.seq = next;
    spec.flags = flags;
  }
  flow.last = spec;
  std::vector<uint8_t> frame = test::tcpFrame(spec);
  frame[10] = 1;
  for (uint8_t flips = input.byte() % 4; flips > 0; --flips) frame[input.byte() % frame.size()] = input.byte();
  return frame;
}

[[noreturn]] void bug(const char* what) {
  std::fprintf(stderr, "invariant broken: %s\n", what);
  std::abort();
}

void checkBooks(const Session& session) {
  const QueueStateView tx = session.state(1);
  uint32_t chained = 0;
  for (uint32_t i = 0; i < kSize; ++i) chained += tx.heads[i].chain;
  if (chained + tx.queue->freeCount != kSize) bug("transmit descriptors leaked");
  uint16_t free = tx.queue->freeHead;
  for (uint32_t i = 0; i < tx.queue->freeCount; ++i, free = tx.next[free]) {
    if (free >= kSize) bug("free list leaves the ring");
    if (tx.heads[free].chain != 0) bug("free descriptor is with the device");
  }
  uint32_t refs = 0;
  uint32_t uses = 0;
  for (uint32_t i = 0; i < kSize; ++i) uses += tx.heads[i].chain != 0 && tx.heads[i].tail != kNoTail ? 1 : 0;
  bool isFree[kSize] = {};
  uint16_t tail = tx.queue->freeTail;
  for (uint32_t i = 0; i < tx.queue->freeTailCount; ++i, tail = tx.tailNext[tail]) {
    if (tail >= session.tailCount() || isFree[tail]) bug("tail list is not a list of tails");
    isFree[tail] = true;
  }
  for (uint32_t i = 0; i < session.tailCount(); ++i) refs += isFree[i] ? 0U : tx.tailRefs[i];
  if (refs != uses) bug("tail buffers leaked");

  const QueueStateView rx = session.state(0);
  uint32_t posted = 0;
  for (uint32_t i = 0; i < kSize; ++i) posted += rx.heads[i].chain;
  if (posted != rx.queue->outstanding) bug("receive buffers miscounted");
}

// One for all inputs: each has a thread.
Kicker* kickerOfThisThread() {
  static const auto kicker = [] {
    auto made = Kicker::create();
    if (!made) bug("no kicker");
    made.value()->enter();
    return std::move(made).value();
  }();
  return kicker.get();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  Input input(data, size);
  const uint8_t choice = input.byte();
  const uint8_t rings = input.byte();
  SessionOptions options;
  options.queueSize = kSize;
  options.rxBufferBytes = 2048;
  options.features = kFeatureVersion1 | ((choice & 1) != 0 ? kFeatureMrgRxbuf : 0) |
                     ((choice & 2) != 0 ? kFeatureEventIdx : 0) | ((choice & 4) != 0 ? kFeatureCsum : 0) |
                     ((choice & 8) != 0 ? kFeatureHostTso4 : 0) | ((rings & 1) != 0 ? kFeatureRingPacked : 0) |
                     ((rings & 2) != 0 ? kFeatureInOrder : 0) | ((rings & 4) != 0 ? kFeatureIndirect : 0);
  StartOptions start;
  start.softwareGso = (choice & 16) != 0;
  start.softwareChecksum = (choice & 32) != 0;
  start.softwareGro = (choice & 64) != 0;
  auto made = Session::create(options);
  if (!made) bug("no session");
  const std::shared_ptr<Session> session = std::move(made).value();
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) != 0) bug("no socketpair");
  const UniqueFd pod(ends[1]);
  const UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
  static PumpScratch scratch;
  PumpContext context;
  context.epollFd = epoll.get();
  context.scratch = &scratch;
  context.kicker = kickerOfThisThread();
  bool corrupt = false;
  auto shared = std::make_shared<PortShared>();
  shared->listener = [&corrupt](PortEventKind, const char*) { corrupt = true; };
  QueuePair pair(UniqueFd(ends[0]), 0, shared);
  pair.attach(&context);
  pair.start(session, shared, start);

  Device rx(*session, 0);
  Device tx(*session, 1);
  Flow received;
  Flow sent;
  static uint8_t frame[70'000];
  const uint64_t ringBytes = session->rxOffset(0);
  while (!input.empty()) {
    switch (input.byte() % 12) {
      case 0: {
        const uint64_t offset = input.word() % ringBytes;
        session->base()[offset] = input.byte();
        break;
      }
      case 1: {
        // A received frame of one buffer: header and start of the packet from the input.
        uint16_t head = 0;
        const uint16_t len = input.word();
        const uint8_t copied = input.byte();
        uint8_t* buffer = nullptr;
        if (!rx.pop(head, buffer, 256)) break;
        if (buffer == nullptr) break;
        for (uint8_t i = 0; i < copied; ++i) buffer[i] = input.byte();
        rx.push(head, len);
        break;
      }
      case 2: {
        uint16_t head = 0;
        uint8_t* buffer = nullptr;
        if (tx.pop(head, buffer, 1)) tx.push(head, 0);
        break;
      }
      case 3:
        rx.publish();
        tx.publish();
        break;
      case 4: {
        const size_t bytes = input.byte() * 8U + (input.byte() % 16 == 0 ? 60'000U : 0U);
        const uint8_t copied = input.byte();
        std::memset(frame, 0, sizeof frame);
        for (size_t i = 0; i < copied; ++i) frame[i] = input.byte();
        (void)!::send(pod.get(), frame, bytes, MSG_NOSIGNAL);
        break;
      }
      case 5:
        rx.push(input.dword(), input.dword());
        break;
      case 6:
        tx.push(input.dword(), input.dword());
        break;
      case 7:
        ((input.byte() & 1) != 0 ? rx : tx).scribble(input.byte(), input.word());
        break;
      case 8: {
        uint16_t head = 0;
        uint8_t* buffer = nullptr;
        if (!rx.pop(head, buffer, 2048)) break;
        const std::vector<uint8_t> tcp = almostTcp(input, received, 1900, false);
        if (buffer != nullptr) std::memcpy(buffer, tcp.data(), tcp.size());
        rx.push(head, static_cast<uint32_t>(tcp.size()));
        break;
      }
      case 9: {
        const std::vector<uint8_t> tcp = almostTcp(input, sent, 65'000, true);
        (void)!::send(pod.get(), tcp.data(), tcp.size(), MSG_NOSIGNAL);
        break;
      }
      case 10: {
        // A batch: one used element for up to four chains, at the place of the first.
        uint16_t heads[4];
        uint32_t count = 0;
        uint8_t* buffer = nullptr;
        const uint8_t what = input.byte();
        Device& device = (what & 1) != 0 ? rx : tx;
        while (count < (what >> 1) % 4 + 1U && device.pop(heads[count], buffer, 12)) {
          if ((what & 1) != 0 && buffer != nullptr) std::memset(buffer, 0, 12), buffer[10] = 1;
          ++count;
        }
        if (count == 0) break;
        device.push(heads[count - 1], input.word());
        for (uint32_t i = 0; i + 1 < count; ++i) device.skip(heads[i]);
        break;
      }
      default:
        pair.round();
        if (input.byte() % 4 == 0) pair.arm();
        while (::recv(pod.get(), frame, sizeof frame, 0) > 0) {
        }
    }
  }
  for (int i = 0; i < 70 && pair.round() != 0; ++i) {
    pair.arm();
    while (::recv(pod.get(), frame, sizeof frame, 0) > 0) {
    }
  }
  if (corrupt && pair.state() != PairState::kFailed) bug("corrupt, yet running");
  pair.stop();
  checkBooks(*session);
  return 0;
}
