// A port on a real TAP in a network namespace of its own. Needs root and /dev/net/tun.
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>

#include <thread>

#include "datagram_runs.h"
#include "harness.h"
#include "packet_reference.h"
#include "tcp_frames.h"

namespace vu::test {
namespace {

// TAP queues, a packet socket on the device, and a control socket, all in a fresh namespace that lives by them.
struct TapInNamespace {
  std::vector<UniqueFd> queues;
  UniqueFd packets;
  UniqueFd control;
  UniqueFd netlink;
  int ifindex = 0;
  int failed = 0;

  explicit TapInNamespace(uint32_t count, const SessionOptions& session) {
    // A thread of its own: the rest of the process stays where it is.
    std::thread([&] {
      if (::unshare(CLONE_NEWNET) != 0) {
        failed = errno;
        return;
      }
      ifreq request{};
      std::strcpy(request.ifr_name, "pod0");
      request.ifr_flags = static_cast<short>(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (count > 1 ? IFF_MULTI_QUEUE : 0));
      for (uint32_t i = 0; i < count; ++i) {
        UniqueFd tun(::open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK));
        int header = (session.features & kFeatureVersion1) != 0 ? 12 : 10;
        if (!tun || ::ioctl(tun.get(), TUNSETIFF, &request) != 0 || ::ioctl(tun.get(), TUNSETVNETHDRSZ, &header) != 0) {
          failed = errno;
          return;
        }
        queues.push_back(std::move(tun));
      }
      control.reset(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
      netlink.reset(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
      // Its own frames, no router solicitations.
      UniqueFd sysctl(::open("/proc/sys/net/ipv6/conf/pod0/disable_ipv6", O_WRONLY | O_CLOEXEC));
      if (sysctl) (void)!::write(sysctl.get(), "1", 1);
      setUp(true);
      ifindex = static_cast<int>(::if_nametoindex("pod0"));
      packets.reset(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, htons(ETH_P_ALL)));
      sockaddr_ll address{};
      address.sll_family = AF_PACKET;
      address.sll_protocol = htons(ETH_P_ALL);
      address.sll_ifindex = ifindex;
      if (::bind(packets.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) failed = errno;
    }).join();
  }

  void setUp(bool up) {
    ifreq request{};
    std::strcpy(request.ifr_name, "pod0");
    request.ifr_flags = static_cast<short>(up ? IFF_UP | IFF_NOARP : IFF_NOARP);
    if (::ioctl(control.get(), SIOCSIFFLAGS, &request) != 0) failed = errno;
  }
  Bytes mac() {
    ifreq request{};
    std::strcpy(request.ifr_name, "pod0");
    if (::ioctl(control.get(), SIOCGIFHWADDR, &request) != 0) failed = errno;
    const auto* bytes = reinterpret_cast<const uint8_t*>(request.ifr_hwaddr.sa_data);
    return Bytes(bytes, bytes + 6);
  }
  // A UDP socket on an address that the interface gets.
  UniqueFd listen(const char* address, uint16_t port) {
    ifreq request{};
    std::strcpy(request.ifr_name, "pod0");
    sockaddr_in place{};
    place.sin_family = AF_INET;
    place.sin_port = htons(port);
    ::inet_pton(AF_INET, address, &place.sin_addr);
    std::memcpy(&request.ifr_addr, &place, sizeof place);
    if (::ioctl(control.get(), SIOCSIFADDR, &request) != 0) failed = errno;
    // As the control socket is of the namespace, it is bound itself.
    UniqueFd socket(::fcntl(control.get(), F_DUPFD_CLOEXEC, 0));
    if (::bind(socket.get(), reinterpret_cast<sockaddr*>(&place), sizeof place) != 0) failed = errno;
    return socket;
  }
  bool running() {
    ifreq request{};
    std::strcpy(request.ifr_name, "pod0");
    ::ioctl(control.get(), SIOCGIFFLAGS, &request);
    return (request.ifr_flags & IFF_RUNNING) != 0;
  }
  void deleteLink() {
    struct {
      nlmsghdr header;
      ifinfomsg info;
    } request{};
    request.header.nlmsg_len = sizeof request;
    request.header.nlmsg_type = RTM_DELLINK;
    request.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
    request.info.ifi_index = ifindex;
    if (::send(netlink.get(), &request, sizeof request, 0) < 0) failed = errno;
  }
  // The pod sends an Ethernet frame.
  bool send(const Bytes& frame) {
    return ::send(packets.get(), frame.data(), frame.size(), 0) == static_cast<ssize_t>(frame.size());
  }
  // What the pod's interface received, of our experimental EtherType only.
  Bytes receive() {
    Bytes frame(70'000);
    ssize_t got = -1;
    eventually([&] {
      sockaddr_ll from{};
      socklen_t length = sizeof from;
      got = ::recvfrom(packets.get(), frame.data(), frame.size(), 0, reinterpret_cast<sockaddr*>(&from), &length);
      return got >= 14 && from.sll_pkttype != PACKET_OUTGOING && frame[12] == 0x88 && frame[13] == 0xb5;
    });
    frame.resize(got > 0 ? static_cast<size_t>(got) : 0);
    return frame;
  }
};

class RealTap : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0 || ::access("/dev/net/tun", R_OK | W_OK) != 0) GTEST_SKIP() << "needs root and /dev/net/tun";
  }
  // A bench whose taps are real; `bench.pods` are not used.
  std::unique_ptr<Bench> make(uint32_t pairs, uint64_t features = kUsualFeatures) {
    BenchOptions options;
    options.session.pairs = pairs;
    options.session.features = features;
    tap = std::make_unique<TapInNamespace>(pairs, options.session);
    EXPECT_EQ(tap->failed, 0) << strerror(tap->failed);
    options.taps = std::move(tap->queues);
    return std::make_unique<Bench>(std::move(options));
  }
  // The next frame of our EtherType at the device.
  bool awaitOurs(Bench& bench, Bytes& frame, uint32_t pair = 0) {
    return eventually([&] {
      Chain chain;
      while (bench.tx(pair).pop(chain)) {
        frame = gather(chain);
        bench.tx(pair).push(chain.head, 0);
        bench.tx(pair).publish();
        const size_t header = bench.session->headerBytes();
        if (frame.size() > header + 14 && frame[header + 12] == 0x88 && frame[header + 13] == 0xb5) return true;
      }
      return false;
    });
  }

  std::unique_ptr<TapInNamespace> tap;
};

TEST_F(RealTap, FramesPassBothWaysUnchanged) {
  auto bench = make(1);
  bench->start();
  for (const uint32_t payload : {46U, 500U, 1500U}) {
    const Bytes framed = plainFrame(payload, static_cast<uint8_t>(payload));
    const Bytes bare(framed.begin() + 12, framed.end());
    ASSERT_TRUE(tap->send(bare));
    Bytes got;
    ASSERT_TRUE(awaitOurs(*bench, got));
    EXPECT_EQ(got, framed);
    bench->deliver(framed, 1);
    EXPECT_EQ(tap->receive(), bare);
    if (payload > 46) {
      bench->deliver(framed, 2);
      EXPECT_EQ(tap->receive(), bare);
    }
  }
}

TEST_F(RealTap, TenByteHeaderOfALegacyBackendPasses) {
  auto bench = make(1, 0);
  bench->start();
  EXPECT_EQ(bench->session->headerBytes(), 10U);
  Bytes framed = plainFrame(100, 1);
  framed.erase(framed.begin(), framed.begin() + 2);
  ASSERT_TRUE(tap->send(Bytes(framed.begin() + 10, framed.end())));
  Bytes got;
  ASSERT_TRUE(awaitOurs(*bench, got));
  EXPECT_EQ(got, framed);
}

TEST_F(RealTap, S64_HeaderThatTheKernelRefusesIsDroppedAndTheQueueGoesOn) {
  auto bench = make(1);
  bench->start();
  Bytes bad = plainFrame(100, 1);
  bad[0] = 1;     // NEEDS_CSUM
  bad[7] = 0x40;  // csum_start far behind the frame
  bench->deliver(bad, 1);
  bad[0] = 0;
  bad[1] = 1;  // TCPv4 segmentation with gso_size 0
  bench->deliver(bad, 1);
  const Bytes good = plainFrame(100, 2);
  bench->deliver(good, 1);
  EXPECT_EQ(tap->receive(), Bytes(good.begin() + 12, good.end()));
  EXPECT_EQ(bench->counters().drop(Drop::kRxInvalid), 2U);
  EXPECT_EQ(bench->counters().rxFrames, 1U);
}

TEST_F(RealTap, MergedSegmentsAreTakenByTheKernel) {
  auto bench = make(1, kFeatureVersion1 | kFeatureMrgRxbuf | kFeatureEventIdx);
  bench->options_.start.softwareGro = true;
  for (const bool ipv6 : {false, true}) {
    for (uint32_t i = 0; i < 30; ++i) {
      bench->fill(tcpFrame({.ipv6 = ipv6, .payload = 1400, .seq = 1400 * i, .checksummed = true}), 1);
    }
  }
  bench->rx().publish();
  bench->start();
  ASSERT_TRUE(eventually([&] {
    const CounterTotals totals = bench->port->counters();
    return totals.rxFrames + totals.drop(Drop::kRxInvalid) == 60;
  }));
  const CounterTotals totals = bench->counters();
  EXPECT_EQ(totals.drop(Drop::kRxInvalid), 0U);
  EXPECT_EQ(totals.event(Event::kGroFrames), 2U);
}

TEST_F(RealTap, MergedDatagramsReachASocketOneByOneAsTheyWereSent) {
  auto bench = make(1, kFeatureVersion1 | kFeatureMrgRxbuf | kFeatureEventIdx);
  bench->options_.start.softwareGro = true;
  reference::Packet packet;
  packet.udp = true;
  packet.macs = tap->mac();
  reference::append(packet.macs, Bytes{2, 0, 0, 0, 0, 9});
  packet.source = {10, 7, 0, 2};
  packet.destination = {10, 7, 0, 1};
  packet.destinationPort = 7300;
  const UniqueFd socket = tap->listen("10.7.0.1", packet.destinationPort);
  std::vector<Bytes> sent;
  // Runs of one length, of which a shorter one is the last; alone; and longer than the one before.
  for (const size_t length : {18U, 18U, 18U, 5U, 700U, 700U, 1U, 1U, 1472U, 1472U, 1472U, 1471U, 900U}) {
    packet.payload = Bytes(length, static_cast<uint8_t>(sent.size() + 1));
    sent.push_back(packet.payload);
    ++packet.id;
    bench->fill(reference::withHeader({}, packet.build(reference::Checksum::kComplete)), 1);
  }
  bench->rx().publish();
  bench->start();
  for (const Bytes& expected : sent) {
    Bytes got(2000);
    ssize_t length = -1;
    ASSERT_TRUE(eventually([&] { return (length = ::recv(socket.get(), got.data(), got.size(), MSG_DONTWAIT)) >= 0; }));
    got.resize(static_cast<size_t>(length));
    ASSERT_EQ(got, expected);
  }
  const CounterTotals totals = bench->counters();
  EXPECT_EQ(totals.drop(Drop::kRxInvalid), 0U);
  EXPECT_EQ(totals.event(Event::kGroFrames), kernelTakesDatagramRuns() ? 3U : 0U);
}

TEST_F(RealTap, S68_InterfaceThatIsDownDropsAndRecovers) {
  auto bench = make(1);
  bench->start();
  tap->setUp(false);
  const Bytes frame = plainFrame(100, 2);
  bench->deliver(frame, 1);
  ASSERT_TRUE(eventually([&] { return bench->port->counters().drop(Drop::kRxLinkDown) == 1; }));
  tap->setUp(true);
  bench->deliver(frame, 1);
  EXPECT_FALSE(tap->receive().empty());
}

TEST_F(RealTap, DeletedDeviceIsReported) {
  auto bench = make(1);
  bench->start();
  tap->deleteLink();
  ASSERT_TRUE(bench->corruption->signal.wait());
  const std::lock_guard lock(bench->corruption->mutex);
  EXPECT_EQ(bench->corruption->events[0].first, PortEventKind::kTapGone);
}

TEST_F(RealTap, CarrierFollowsTheCommandAndIllegalOffloadsAreRefused) {
  auto bench = make(1);
  ASSERT_TRUE(bench->port->setCarrier(false).ok());
  EXPECT_TRUE(eventually([&] { return !tap->running(); }));
  ASSERT_TRUE(bench->port->setCarrier(true).ok());
  EXPECT_TRUE(eventually([&] { return tap->running(); }));
  EXPECT_TRUE(bench->port->setOffload(TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6).ok());
  EXPECT_TRUE(bench->port->setOffload(0).ok());
  const auto refused = bench->port->setOffload(TUN_F_TSO4);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.fault().errnum, EINVAL);
}

// A datagram of flow number `flow`, from the pod or to it.
Bytes datagram(uint8_t flow, bool toPod, uint8_t seed) {
  Bytes framed = plainFrame(200, seed);
  const uint8_t from = toPod ? 2 : 1;
  const uint8_t to = toPod ? 1 : 2;
  const Bytes headers = {0x08, 0x00, 0x45, 0,  0, 200, 0,  0,    0x40, 0,    64, 17, 0,   0, 10,
                         0,    0,    from, 10, 0, 0,   to, flow, from, flow, to, 0,  180, 0, 0};
  std::copy(headers.begin(), headers.end(), framed.begin() + 24);
  return framed;
}

// Packets of one flow must not overtake each other, and a peer's pump finds its flow on the pair where it sends it.
TEST_F(RealTap, FlowStaysOnOnePairAndFollowsTheBackendToAnother) {
  auto bench = make(2);
  bench->start();
  const auto leavesOn = [&](const Bytes& framed) {
    int pair = -1;
    eventually([&] {
      for (uint32_t i = 0; i < 2 && pair < 0; ++i) {
        Chain chain;
        while (bench->tx(i).pop(chain)) {
          if (gather(chain) == framed) pair = static_cast<int>(i);
          bench->tx(i).push(chain.head, 0);
          bench->tx(i).publish();
        }
      }
      return pair >= 0;
    });
    return pair;
  };
  const auto send = [&](uint8_t flow, uint8_t seed) {
    const Bytes framed = datagram(flow, false, seed);
    EXPECT_TRUE(tap->send(Bytes(framed.begin() + 12, framed.end())));
    return leavesOn(framed);
  };
  uint32_t flowsOf[2] = {};
  uint64_t delivered = 0;
  for (uint8_t flow = 0; flow < 32; ++flow) {
    const int first = send(flow, 0);
    ASSERT_GE(first, 0) << "flow " << int{flow};
    ++flowsOf[first];
    for (uint8_t seed = 1; seed < 4; ++seed) EXPECT_EQ(send(flow, seed), first) << "flow " << int{flow};
    // Wherever the kernel had put it: the answer to what came on a pair leaves on that pair.
    for (const uint32_t pair : {1U, 0U, 1U}) {
      bench->deliver(datagram(flow, true, 9), 1, pair);
      ++delivered;
      ASSERT_TRUE(eventually([&] { return bench->port->counters().rxFrames == delivered; }));
      EXPECT_EQ(send(flow, 4), static_cast<int>(pair)) << "flow " << int{flow};
      EXPECT_EQ(send(flow, 5), static_cast<int>(pair)) << "flow " << int{flow};
    }
  }
  EXPECT_GT(flowsOf[0], 0U);
  EXPECT_GT(flowsOf[1], 0U);
}

TEST_F(RealTap, FlowsUseOnlyTheQueuesOfActivePairs) {
  auto bench = make(2);
  bench->options_.start.activePairs = 1;
  Signal started;
  ASSERT_TRUE(bench->port->start(bench->session, bench->options_.start, [&] { started.raise(); }).ok());
  ASSERT_TRUE(started.wait());
  // Many flows: with the second queue attached half of them would wait there for ever.
  for (uint8_t i = 0; i < 32; ++i) {
    const Bytes framed = datagram(i, false, i);
    ASSERT_TRUE(tap->send(Bytes(framed.begin() + 12, framed.end())));
    ASSERT_TRUE(eventually([&] {
      Chain chain;
      return bench->tx(0).pop(chain) && gather(chain) == framed;
    })) << "flow "
        << int{i} << " went to the queue of an idle pair";
  }
  EXPECT_EQ(bench->tx(1).available(), 0);
}

TEST_F(RealTap, APairSwitchedOffStillDeliversAndComesBackWithItsQueue) {
  auto bench = make(2);
  bench->start();
  const auto step = [&](Result<void> (Port::*command)(uint32_t, Port::Done), uint32_t pairs) {
    Signal done;
    ASSERT_TRUE(((*bench->port).*command)(pairs, [&] { done.raise(); }).ok());
    ASSERT_TRUE(done.wait());
  };
  for (uint8_t round = 0; round < 3; ++round) {
    step(&Port::finishTransmit, 1);
    ASSERT_TRUE(bench->port->detachQueues(1).ok());
    const Bytes late = plainFrame(300, round);
    bench->fill(late, 1, -1, 1);
    bench->rx(1).publish();
    step(&Port::retire, 1);
    EXPECT_EQ(tap->receive(), Bytes(late.begin() + 12, late.end()));
    step(&Port::enlist, 2);
    bench->deliver(late, 1, 1);
    EXPECT_EQ(tap->receive(), Bytes(late.begin() + 12, late.end()));
  }
  EXPECT_EQ(bench->corruption->signal.count(), 0);
}

}  // namespace
}  // namespace vu::test
