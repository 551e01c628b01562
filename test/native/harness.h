// A session, a pump, a port whose TAP is one end of a SOCK_SEQPACKET pair, and a model device per ring.
#pragma once

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <chrono>
#include <condition_variable>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "port.h"
#include "ring_device.h"

namespace vu::test {

using Bytes = std::vector<uint8_t>;

inline constexpr uint64_t kUsualFeatures =
    kFeatureVersion1 | kFeatureMrgRxbuf | kFeatureEventIdx | kFeatureCsum | kFeatureHostTso4 | kFeatureHostTso6;

// The features that change how a ring works: every story that uses a ring is told for each of these.
struct RingCase {
  bool packed = false;
  bool mergeable = true;
  bool inOrder = false;
  bool indirect = false;

  // `usual` without MRG_RXBUF where the case is without.
  uint64_t features(uint64_t usual = kUsualFeatures) const {
    return (mergeable ? usual : usual & ~kFeatureMrgRxbuf) | (packed ? kFeatureRingPacked : 0) |
           (inOrder ? kFeatureInOrder : 0) | (indirect ? kFeatureIndirect : 0);
  }
  std::string name() const {
    return std::string(packed ? "packed" : "split") + (mergeable ? "_mergeable" : "_single") +
           (inOrder ? "_in_order" : "_any_order") + (indirect ? "_indirect" : "");
  }
};

inline std::vector<RingCase> ringCases(bool mergeableOnly = false) {
  std::vector<RingCase> cases;
  for (const bool packed : {false, true}) {
    for (const bool mergeable : {true, false}) {
      if (!mergeable && mergeableOnly) continue;
      for (const bool inOrder : {false, true}) {
        // Tables are a matter of transmission and MRG_RXBUF one of reception: not each with each.
        cases.push_back({packed, mergeable, inOrder, !mergeable});
        if (mergeable) cases.push_back({packed, mergeable, inOrder, true});
      }
    }
  }
  return cases;
}

inline std::string ringCaseName(const ::testing::TestParamInfo<RingCase>& info) { return info.param.name(); }
inline void PrintTo(const RingCase& ring, std::ostream* out) { *out << ring.name(); }

inline std::unique_ptr<RingDevice> deviceOf(const Session& session, uint32_t ring) {
  const uint32_t size = session.options().queueSize;
  const DeviceSetup setup{session.addresses(),  ring % 2 == 0,        {session.eventIdx(), session.inOrder()},
                          session.kickFd(ring), session.callFd(ring), session.indirect()};
  if (session.packed()) {
    return std::make_unique<PackedDevice>(PackedRing::over(session.base(), session.layout(ring), size), setup);
  }
  return std::make_unique<SplitDevice>(Vring::over(session.base(), session.layout(ring), size), setup);
}

// 12 bytes of zero header, Ethernet addresses, a type nobody handles, then a pattern that depends on `seed`.
inline Bytes plainFrame(uint32_t payload, uint8_t seed) {
  Bytes frame(12 + 14 + size_t{payload});
  for (size_t i = 12; i < frame.size(); ++i) frame[i] = static_cast<uint8_t>(seed + i * 7);
  frame[24] = 0x88;
  frame[25] = 0xb5;
  return frame;
}

inline Bytes gather(const Chain& chain) {
  Bytes frame;
  for (const Segment& segment : chain.segments) frame.insert(frame.end(), segment.host, segment.host + segment.len);
  return frame;
}

class Signal {
 public:
  void raise() {
    const std::lock_guard lock(mutex_);
    ++count_;
    condition_.notify_all();
  }
  bool wait(int count = 1) {
    std::unique_lock lock(mutex_);
    return condition_.wait_for(lock, std::chrono::seconds(20), [&] { return count_ >= count; });
  }
  int count() {
    const std::lock_guard lock(mutex_);
    return count_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable condition_;
  int count_ = 0;
};

// Waits for a condition that another thread brings about, looking often: 20 s at most.
inline bool eventually(const std::function<bool()>& condition) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::yield();
  }
  return true;
}

struct Corruption {
  std::mutex mutex;
  std::vector<std::pair<PortEventKind, std::string>> events;
  Signal signal;
};

struct BenchOptions {
  SessionOptions session{1, 256, 4096, kUsualFeatures, MemoryKind::kMemfd};
  StartOptions start;
  uint32_t spinUs = 0;
  uint32_t pumps = 1;
  std::shared_ptr<Pump> sharedPump;
  // Used instead of socket pairs where given.
  std::vector<UniqueFd> taps;
};

inline BenchOptions benchOptions(const RingCase& ring, uint64_t usual = kUsualFeatures) {
  BenchOptions options;
  options.session.features = ring.features(usual);
  return options;
}

class Bench {
 public:
  Bench() : Bench(BenchOptions()) {}
  explicit Bench(const BenchOptions& usual) : Bench(copyWithoutTaps(usual)) {}
  explicit Bench(BenchOptions&& given) : options_(std::move(given)) {
    BenchOptions& options = options_;
    for (uint32_t i = 0; i < options.pumps; ++i) {
      if (options.sharedPump) {
        pumps.push_back(options.sharedPump);
      } else {
        auto pump = Pump::create("vu-test-" + std::to_string(i), options.spinUs);
        EXPECT_TRUE(pump.ok());
        pumps.push_back(std::move(pump).value());
      }
    }
    std::vector<UniqueFd> taps = std::move(options.taps);
    for (uint32_t i = static_cast<uint32_t>(taps.size()); i < options.session.pairs; ++i) {
      int ends[2];
      EXPECT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
      const int size = 1 << 20;
      for (int end : ends) ::setsockopt(end, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
      taps.emplace_back(ends[0]);
      pods.emplace_back(ends[1]);
    }
    corruption = std::make_shared<Corruption>();
    auto made = Port::create(std::move(taps), pumps, [log = corruption](PortEventKind kind, const char* reason) {
      {
        const std::lock_guard lock(log->mutex);
        log->events.emplace_back(kind, reason);
      }
      log->signal.raise();
    });
    EXPECT_TRUE(made.ok());
    port = std::move(made).value();
    newSession();
  }
  ~Bench() {
    auto closed = std::make_shared<Signal>();
    port->close([closed] { closed->raise(); });
    EXPECT_TRUE(closed->wait());
    if (!options_.sharedPump) {
      for (auto& pump : pumps) pump->stop();
    }
  }

  void newSession() {
    auto made = Session::create(options_.session);
    EXPECT_TRUE(made.ok()) << made.fault().operation << " " << made.fault().errnum;
    session = std::move(made).value();
    devices.clear();
    for (uint32_t ring = 0; ring < session->ringCount(); ++ring) {
      devices.push_back(deviceOf(*session, ring));
    }
  }
  void start() { start(options_.session.pairs); }
  void start(uint32_t activePairs) {
    options_.start.activePairs = activePairs;
    Signal started;
    ASSERT_TRUE(port->start(session, options_.start, [&] { started.raise(); }).ok());
    ASSERT_TRUE(started.wait());
  }
  void quiesce() {
    Signal quiet;
    port->quiesce([&] { quiet.raise(); });
    ASSERT_TRUE(quiet.wait());
  }

  // With everything in it that the pumps did before now. A frame is counted after it has been handed on: whoever reads
  // Port::counters() at the sight of one may be early.
  CounterTotals counters() {
    for (auto& pump : pumps) {
      Signal settled;
      EXPECT_TRUE(pump->post([&] { settled.raise(); }));
      EXPECT_TRUE(settled.wait());
    }
    return port->counters();
  }

  // Pod → TAP.
  void send(const Bytes& frame, uint32_t pair = 0) {
    ASSERT_TRUE(eventually([&] { return ::send(pods[pair].get(), frame.data(), frame.size(), MSG_NOSIGNAL) >= 0; }));
  }
  // TAP → pod; empty: nothing came within 20 s.
  Bytes receive(uint32_t pair = 0) {
    Bytes frame(80 * 1024);
    ssize_t got = -1;
    eventually([&] { return (got = ::recv(pods[pair].get(), frame.data(), frame.size(), 0)) >= 0; });
    frame.resize(got > 0 ? static_cast<size_t>(got) : 0);
    return frame;
  }
  bool podHasFrame(uint32_t pair = 0) {
    uint8_t byte = 0;
    return ::recv(pods[pair].get(), &byte, 1, MSG_PEEK) > 0;
  }

  RingDevice& rx(uint32_t pair = 0) { return *devices[2 * pair]; }
  RingDevice& tx(uint32_t pair = 0) { return *devices[2 * pair + 1]; }

  // Waits for the next frame from the pod at the device.
  bool await(Chain& chain, uint32_t pair = 0) {
    return eventually([&] { return tx(pair).pop(chain); });
  }
  // Pod → device: the frame arrives as it was sent, and its buffers go back.
  void expectPassed(const Bytes& frame) {
    send(frame);
    Chain chain;
    ASSERT_TRUE(await(chain));
    EXPECT_EQ(gather(chain), frame);
    tx().push(chain.head, 0);
    tx().publish();
  }
  // Device → pod: spreads the frame over `buffers` buffers, filling all but the last ones with `cut` bytes each.
  // num_buffers is set unless `numBuffers` says otherwise; buffer number `liar` claims to hold 5000 bytes. Not
  // published.
  void fill(Bytes frame, uint32_t buffers, int numBuffers = -1, uint32_t pair = 0, uint32_t liar = 0xffff) {
    const auto count = static_cast<uint16_t>(numBuffers < 0 ? static_cast<int>(buffers) : numBuffers);
    std::memcpy(frame.data() + 10, &count, 2);
    size_t offset = 0;
    for (uint32_t i = 0; i < buffers; ++i) {
      Chain chain;
      EXPECT_TRUE(eventually([&] { return rx(pair).pop(chain); }));
      size_t part = i + 1 == buffers ? frame.size() - offset : (frame.size() - offset) / (buffers - i);
      if (part > chain.bytes()) part = chain.bytes();
      std::memcpy(chain.segments[0].host, frame.data() + offset, part);
      offset += part;
      rx(pair).push(chain.head, i == liar ? 5000 : static_cast<uint32_t>(part));
    }
  }
  void deliver(const Bytes& frame, uint32_t buffers, uint32_t pair = 0) {
    fill(frame, buffers, -1, pair);
    rx(pair).publish();
    rx(pair).notify();
  }

  // While quiesced: every descriptor is either free or in a chain with the device, every tail free or referred to.
  void expectNoLeak(uint32_t pair = 0) {
    const uint32_t size = options_.session.queueSize;
    const QueueStateView tx = session->state(2 * pair + 1);
    uint32_t chained = 0;
    uint32_t heads = 0;
    uint32_t tailUses = 0;
    for (uint32_t i = 0; i < size; ++i) {
      chained += tx.heads[i].chain;
      heads += tx.heads[i].chain != 0 ? 1 : 0;
      tailUses += tx.heads[i].chain != 0 && tx.heads[i].tail != kNoTail ? 1 : 0;
    }
    EXPECT_EQ(chained + tx.queue->freeCount, size);
    EXPECT_EQ(heads, tx.queue->outstanding);
    uint32_t refs = 0;
    uint32_t tailsInUse = 0;
    std::vector<bool> isFree(session->tailCount(), false);
    uint16_t tail = tx.queue->freeTail;
    for (uint32_t i = 0; i < tx.queue->freeTailCount; ++i, tail = tx.tailNext[tail]) isFree[tail] = true;
    for (uint32_t i = 0; i < session->tailCount(); ++i) {
      if (isFree[i]) continue;
      ++tailsInUse;
      refs += tx.tailRefs[i];
    }
    EXPECT_EQ(tailsInUse + tx.queue->freeTailCount, session->tailCount());
    EXPECT_EQ(refs, tailUses);

    const QueueStateView rx = session->state(2 * pair);
    uint32_t posted = 0;
    for (uint32_t i = 0; i < size; ++i) posted += rx.heads[i].chain;
    EXPECT_EQ(posted + rx.queue->freeCount, size);
    EXPECT_EQ(rx.queue->outstanding, posted);
  }
  void expectLawful() {
    for (auto& device : devices) EXPECT_EQ(device->violation(), "");
  }

  static BenchOptions copyWithoutTaps(const BenchOptions& from) {
    BenchOptions copy;
    copy.session = from.session;
    copy.start = from.start;
    copy.spinUs = from.spinUs;
    copy.pumps = from.pumps;
    copy.sharedPump = from.sharedPump;
    return copy;
  }

  BenchOptions options_;
  std::vector<std::shared_ptr<Pump>> pumps;
  std::vector<UniqueFd> pods;
  std::shared_ptr<Corruption> corruption;
  std::shared_ptr<Port> port;
  std::shared_ptr<Session> session;
  std::vector<std::unique_ptr<RingDevice>> devices;
};

}  // namespace vu::test
