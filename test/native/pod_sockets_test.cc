// What a pod's kernel and a backend hand to each other, seen by sockets of the pod: our own TAP in a namespace of its
// own, and a device that sends every packet back with its IP addresses exchanged, so that a socket on the pod's address
// talks to the peer's and reaches another one of the pod's. Sums stay right: they do not care about the order.
// Needs root and /dev/net/tun.
#include <arpa/inet.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <sched.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <fstream>
#include <thread>

#include "checksum.h"
#include "harness.h"
#include "netns.h"
#include "pod_link.h"
#include "vnet_hdr.h"

namespace vu::test {
namespace {

constexpr uint32_t kMtu = 1500;
constexpr uint16_t kPort = 5201;
constexpr unsigned kChecksumAndSegmentation = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6;

struct Family {
  bool ipv6;
  const char* pod;
  const char* peer;

  int number() const { return ipv6 ? AF_INET6 : AF_INET; }
  uint16_t l4() const { return ipv6 ? 54 : 34; }
  uint16_t segment() const { return ipv6 ? 1428 : 1448; }  // with time stamps
  uint8_t gsoType() const { return ipv6 ? kGsoTcp6 : kGsoTcp4; }
};
void PrintTo(const Family& family, std::ostream* out) { *out << (family.ipv6 ? "ipv6" : "ipv4"); }
constexpr Family kIpv4{false, "10.9.0.1", "10.9.0.2"};
constexpr Family kIpv6{true, "fd09::1", "fd09::2"};

struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t length = 0;

  SocketAddress(const Family& family, const char* text, uint16_t port) {
    if (family.ipv6) {
      auto& address = reinterpret_cast<sockaddr_in6&>(storage);
      address.sin6_family = AF_INET6;
      address.sin6_port = htons(port);
      ::inet_pton(AF_INET6, text, &address.sin6_addr);
      length = sizeof address;
    } else {
      auto& address = reinterpret_cast<sockaddr_in&>(storage);
      address.sin_family = AF_INET;
      address.sin_port = htons(port);
      ::inet_pton(AF_INET, text, &address.sin_addr);
      length = sizeof address;
    }
  }
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
};

TapSpec specOf(uint32_t queues, uint32_t headerBytes) {
  TapSpec spec;
  spec.name = "pod0";
  spec.queues = queues;
  spec.headerBytes = headerBytes;
  spec.attributes = {{2, 0, 10, 9, 0, 1}, kMtu, 1000, 65'536};
  return spec;
}

class PodSockets : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0 || ::access("/dev/net/tun", R_OK | W_OK) != 0) GTEST_SKIP() << "needs root and /dev/net/tun";
    std::thread([&] {
      ASSERT_EQ(::unshare(CLONE_NEWNET), 0);
      auto own = ownNetns();
      ASSERT_TRUE(own.ok());
      netns = std::move(own).value();
    }).join();
  }

  // On a thread of its own: the rest of the process stays where it is.
  void inside(const std::function<void()>& work) {
    std::thread([&] {
      ASSERT_TRUE(enterNetns(netns.get()).ok());
      work();
    }).join();
  }
  UniqueFd socket(const Family& family, int type) {
    UniqueFd made;
    inside([&] { made.reset(::socket(family.number(), type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)); });
    EXPECT_TRUE(made);
    return made;
  }
  UniqueFd bound(const Family& family, int type, uint16_t port) {
    UniqueFd made = socket(family, type);
    const SocketAddress address(family, family.pod, port);
    EXPECT_EQ(::bind(made.get(), address.get(), address.length), 0) << strerror(errno);
    return made;
  }

  // The pod's interface up, and a backend whose TAP hands over what `offloads` says.
  void attach(uint64_t features, unsigned offloads) {
    BenchOptions options;
    options.session.features = features;
    inside([&] {
      OpenedTap tap;
      ASSERT_FALSE(openTap(specOf(1, 12), &tap));
      LinkSetup setup;
      setup.ifindex = tap.ifindex;
      for (const Family& family : {kIpv4, kIpv6}) {
        const auto prefix = static_cast<uint8_t>(family.ipv6 ? 64 : 24);
        setup.addresses.push_back({*IpAddress::parse(family.pod), prefix});
      }
      ASSERT_FALSE(setupLink(setup));
      control.reset(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
      options.taps = std::move(tap.queues);
    });
    bench = std::make_unique<Bench>(std::move(options));
    ASSERT_TRUE(bench->port->setOffload(offloads).ok());
    bench->start();
    ASSERT_TRUE(bench->port->setCarrier(true).ok());
    // The kernel drops what is sent before it has noticed the carrier; setting flags waits for what it does then.
    ASSERT_TRUE(eventually([&] { return (flags(SIOCGIFFLAGS) & IFF_RUNNING) != 0; }));
    // The kernel makes the route to an IPv6 address some time after the address.
    inside([&] { ASSERT_TRUE(eventually(hasLocalRoute)); });
    // Without neighbour discovery every frame has the interface's own address on both ends.
    flags(SIOCSIFFLAGS, IFF_UP | IFF_NOARP);
  }
  static bool hasLocalRoute() {
    std::ifstream routes("/proc/thread-self/net/ipv6_route");
    for (std::string line; std::getline(routes, line);) {
      if (line.starts_with("fd090000000000000000000000000001 80 ")) return true;
    }
    return false;
  }
  short flags(unsigned long request, short wanted = 0) {
    ifreq link{};
    std::strcpy(link.ifr_name, "pod0");
    link.ifr_flags = wanted;
    EXPECT_EQ(::ioctl(control.get(), request, &link), 0) << strerror(errno);
    return link.ifr_flags;
  }

  // What the device saw of the pod's TCP and UDP.
  struct Seen {
    VnetHdr header;
    size_t bytes;  // of the Ethernet frame
  };
  // Sends back whatever the pod has sent.
  void reflect() {
    Chain chain;
    while (bench->tx().pop(chain)) {
      Bytes frame = gather(chain);
      bench->tx().push(chain.head, 0);
      bench->tx().publish();
      bench->tx().notify();
      const bool ipv6 = frame[24] == 0x86;
      const uint8_t protocol = frame[12 + 14 + (ipv6 ? 6 : 9)];
      if (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP) continue;
      seen.push_back({VnetHdr::read(frame.data(), 12), frame.size() - 12});
      const auto source = frame.begin() + 12 + 14 + (ipv6 ? 8 : 12);
      const int length = ipv6 ? 16 : 4;
      std::swap_ranges(source, source + length, source + length);
      bench->deliver(frame, static_cast<uint32_t>(frame.size() + 4095) / 4096);
    }
  }

  // Sends 1 MiB over a connection of the pod with itself by way of the device. Returns what arrived.
  static constexpr size_t kStreamBytes = 1 << 20;
  static uint8_t streamByte(size_t at) { return static_cast<uint8_t>(at * 31 + (at >> 8)); }
  Bytes stream(const Family& family) {
    const UniqueFd listener = bound(family, SOCK_STREAM, kPort);
    EXPECT_EQ(::listen(listener.get(), 1), 0);
    const UniqueFd client = bound(family, SOCK_STREAM, 0);
    const SocketAddress peer(family, family.peer, kPort);
    EXPECT_EQ(::connect(client.get(), peer.get(), peer.length), -1);
    EXPECT_EQ(errno, EINPROGRESS);
    Bytes bytes(kStreamBytes);
    for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = streamByte(i);
    Bytes arrived;
    UniqueFd server;
    size_t sent = 0;
    eventually([&] {
      reflect();
      if (!server) server.reset(::accept4(listener.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
      const ssize_t took = ::send(client.get(), bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
      if (took > 0) sent += static_cast<size_t>(took);
      uint8_t part[65'536];
      const ssize_t got = server ? ::recv(server.get(), part, sizeof part, 0) : 0;
      if (got > 0) arrived.insert(arrived.end(), part, part + got);
      return arrived.size() >= bytes.size();
    });
    return arrived;
  }
  static bool isTheStream(const Bytes& arrived) {
    if (arrived.size() != kStreamBytes) return false;
    for (size_t i = 0; i < arrived.size(); ++i) {
      if (arrived[i] != streamByte(i)) return false;
    }
    return true;
  }

  // The next datagram of a socket; empty: nothing came within 20 s.
  Bytes datagram(const UniqueFd& from) {
    Bytes bytes(70'000);
    ssize_t got = -1;
    eventually([&] {
      reflect();
      return (got = ::recv(from.get(), bytes.data(), bytes.size(), 0)) >= 0;
    });
    bytes.resize(got > 0 ? static_cast<size_t>(got) : 0);
    return bytes;
  }
  static Bytes pattern(size_t bytes, uint8_t seed) {
    Bytes made(bytes);
    for (size_t i = 0; i < bytes; ++i) made[i] = static_cast<uint8_t>(seed + i * 7 + (i >> 8));
    return made;
  }

  UniqueFd netns;
  UniqueFd control;
  std::unique_ptr<Bench> bench;
  std::vector<Seen> seen;
};

class PodSocketsOf : public PodSockets, public ::testing::WithParamInterface<Family> {};
INSTANTIATE_TEST_SUITE_P(Families, PodSocketsOf, ::testing::Values(kIpv4, kIpv6),
                         [](const auto& info) { return std::string(info.param.ipv6 ? "ipv6" : "ipv4"); });

TEST_P(PodSocketsOf, S61_S63_StreamTravelsInLargeFramesWhoseHeadersAreTheKernels) {
  const Family family = GetParam();
  attach(kUsualFeatures, kChecksumAndSegmentation);
  EXPECT_TRUE(isTheStream(stream(family)));
  size_t large = 0;
  for (const Seen& frame : seen) {
    EXPECT_EQ(frame.header.flags, kHdrNeedsCsum);
    EXPECT_EQ(frame.header.csumStart, family.l4());
    EXPECT_EQ(frame.header.csumOffset, 16);
    if (frame.bytes <= 14 + kMtu) continue;
    ++large;
    EXPECT_EQ(frame.header.gsoType, family.gsoType());
    EXPECT_EQ(frame.header.gsoSize, family.segment());
    EXPECT_GE(frame.header.hdrLen, family.l4() + 32);
  }
  EXPECT_GT(large, 0U);
  EXPECT_EQ(bench->counters().drop(Drop::kRxInvalid), 0U);
}

TEST_P(PodSocketsOf, S61_StreamFitsTheMtuWithoutSegmentationOffload) {
  const Family family = GetParam();
  attach(kFeatureVersion1 | kFeatureMrgRxbuf | kFeatureEventIdx | kFeatureCsum, TUN_F_CSUM);
  EXPECT_TRUE(isTheStream(stream(family)));
  EXPECT_GT(seen.size(), kStreamBytes / kMtu);
  for (const Seen& frame : seen) {
    EXPECT_LE(frame.bytes, 14 + kMtu);
    EXPECT_EQ(frame.header.gsoType, kGsoNone);
    EXPECT_EQ(frame.header.flags, kHdrNeedsCsum);
  }
}

TEST_P(PodSocketsOf, S62_S63_DatagramTravelsWithItsChecksumLeftOpen) {
  const Family family = GetParam();
  attach(kUsualFeatures, kChecksumAndSegmentation);
  const UniqueFd socket = bound(family, SOCK_DGRAM, kPort);
  const SocketAddress peer(family, family.peer, kPort);
  const Bytes payload = pattern(1000, 3);
  ASSERT_EQ(::sendto(socket.get(), payload.data(), payload.size(), 0, peer.get(), peer.length), 1000);
  EXPECT_EQ(datagram(socket), payload);
  ASSERT_EQ(seen.size(), 1U);
  EXPECT_EQ(seen[0].header.flags, kHdrNeedsCsum);
  EXPECT_EQ(seen[0].header.csumStart, family.l4());
  EXPECT_EQ(seen[0].header.csumOffset, 6);
}

// Nobody vouches for it on its way back, so that the pod's kernel checks the sum.
TEST_P(PodSocketsOf, S62_DatagramIsCompleteWithoutChecksumOffload) {
  const Family family = GetParam();
  attach(kFeatureVersion1 | kFeatureMrgRxbuf | kFeatureEventIdx, 0);
  const UniqueFd socket = bound(family, SOCK_DGRAM, kPort);
  const SocketAddress peer(family, family.peer, kPort);
  const Bytes payload = pattern(1000, 4);
  ASSERT_EQ(::sendto(socket.get(), payload.data(), payload.size(), 0, peer.get(), peer.length), 1000);
  EXPECT_EQ(datagram(socket), payload);
  ASSERT_EQ(seen.size(), 1U);
  EXPECT_EQ(seen[0].header.flags, 0);
}

TEST_P(PodSocketsOf, S62_DatagramsSegmentedByThePodArriveOneByOne) {
  const Family family = GetParam();
  attach(kUsualFeatures, kChecksumAndSegmentation);
  const UniqueFd socket = bound(family, SOCK_DGRAM, kPort);
  const int segment = 1000;
  ASSERT_EQ(::setsockopt(socket.get(), IPPROTO_UDP, UDP_SEGMENT, &segment, sizeof segment), 0);
  const SocketAddress peer(family, family.peer, kPort);
  const Bytes payload = pattern(5000, 5);
  ASSERT_EQ(::sendto(socket.get(), payload.data(), payload.size(), 0, peer.get(), peer.length), 5000);
  for (int part = 0; part < 5; ++part) {
    EXPECT_EQ(datagram(socket), Bytes(payload.begin() + 1000 * part, payload.begin() + 1000 * (part + 1)));
  }
  EXPECT_EQ(seen.size(), 5U);
  for (const Seen& frame : seen) {
    EXPECT_LE(frame.bytes, 14 + kMtu);
    EXPECT_EQ(frame.header.gsoType, kGsoNone);
  }
}

// A datagram of the peer as a backend hands it over: its checksum is the pseudo-header's.
Bytes datagramOfThePeer(const Family& family, const Bytes& payload, uint8_t gsoType, uint16_t gsoSize) {
  const auto udpBytes = static_cast<uint32_t>(8 + payload.size());
  const auto put16 = [](uint8_t* at, uint32_t value) {
    at[0] = static_cast<uint8_t>(value >> 8);
    at[1] = static_cast<uint8_t>(value);
  };
  Bytes frame(12 + family.l4() + size_t{8});
  uint8_t* ethernet = frame.data() + 12;
  const uint8_t mac[] = {2, 0, 10, 9, 0, 1};
  std::memcpy(ethernet, mac, 6);
  std::memcpy(ethernet + 6, mac, 6);
  put16(ethernet + 12, family.ipv6 ? 0x86dd : 0x0800);
  uint8_t* ip = ethernet + 14;
  if (family.ipv6) {
    ip[0] = 0x60;
    put16(ip + 4, udpBytes);
    ip[6] = IPPROTO_UDP;
    ip[7] = 64;
  } else {
    ip[0] = 0x45;
    put16(ip + 2, 20 + udpBytes);
    ip[8] = 64;
    ip[9] = IPPROTO_UDP;
  }
  uint8_t* addresses = ip + (family.ipv6 ? 8 : 12);
  ::inet_pton(family.number(), family.peer, addresses);
  ::inet_pton(family.number(), family.pod, addresses + (family.ipv6 ? 16 : 4));
  if (!family.ipv6) {
    const auto sum = static_cast<uint16_t>(~checksumFold(checksumAdd(0, ip, 20)));
    std::memcpy(ip + 10, &sum, 2);
  }
  uint8_t* udp = ethernet + family.l4();
  put16(udp, 7000);
  put16(udp + 2, kPort);
  put16(udp + 4, udpBytes);
  const uint16_t pseudo = checksumFold(pseudoHeaderSum(addresses, family.ipv6, IPPROTO_UDP, udpBytes));
  std::memcpy(udp + 6, &pseudo, 2);
  VnetHdr header;
  header.flags = kHdrNeedsCsum;
  header.gsoType = gsoType;
  header.gsoSize = gsoSize;
  header.hdrLen = static_cast<uint16_t>(family.l4() + 8);
  header.csumStart = family.l4();
  header.csumOffset = 6;
  header.write(frame.data(), 12);
  frame.insert(frame.end(), payload.begin(), payload.end());
  return frame;
}

TEST_P(PodSocketsOf, S63_DatagramToBeFragmentedArrivesWhole) {
  const Family family = GetParam();
  attach(kUsualFeatures, kChecksumAndSegmentation);
  const UniqueFd socket = bound(family, SOCK_DGRAM, kPort);
  const Bytes payload = pattern(9000, 6);
  bench->deliver(datagramOfThePeer(family, payload, kGsoUdp, 1480), 3);
  EXPECT_EQ(datagram(socket), payload);
  EXPECT_EQ(bench->counters().drop(Drop::kRxInvalid), 0U);
}

// Linux takes them since 6.2.
TEST_P(PodSocketsOf, S63_DatagramsInOneFrameArriveOneByOne) {
  const Family family = GetParam();
  attach(kUsualFeatures, kChecksumAndSegmentation);
  const UniqueFd socket = bound(family, SOCK_DGRAM, kPort);
  const Bytes payload = pattern(4200, 7);
  bench->deliver(datagramOfThePeer(family, payload, kGsoUdpL4, 1400), 2);
  ASSERT_TRUE(eventually([&] {
    const CounterTotals totals = bench->port->counters();
    return totals.rxFrames + totals.drop(Drop::kRxInvalid) == 1;
  }));
  if (bench->counters().drop(Drop::kRxInvalid) == 1) GTEST_SKIP() << "this kernel does not know this type";
  for (int part = 0; part < 3; ++part) {
    EXPECT_EQ(datagram(socket), Bytes(payload.begin() + 1400 * part, payload.begin() + 1400 * (part + 1)));
  }
}

class HeaderOfTheTap : public PodSockets {
 protected:
  static int headerBytes(const UniqueFd& queue) {
    int bytes = 0;
    return ::ioctl(queue.get(), TUNGETVNETHDRSZ, &bytes) == 0 ? bytes : -errno;
  }
};

TEST_F(HeaderOfTheTap, S59_IsTheNegotiatedOneWheneverItIsOpened) {
  inside([&] {
    std::optional<uint32_t> ifindex;
    // The third agent finds what the second one's backend had.
    for (const uint64_t features : {kUsualFeatures, uint64_t{0}, kUsualFeatures}) {
      SessionOptions options = BenchOptions().session;
      options.features = features;
      const auto session = Session::create(options);
      ASSERT_TRUE(session.ok());
      TapSpec spec = specOf(2, session.value()->headerBytes());
      spec.adoptIfindex = ifindex;
      OpenedTap tap;
      ASSERT_FALSE(openTap(spec, &tap));
      ifindex = tap.ifindex;
      for (const UniqueFd& queue : tap.queues) EXPECT_EQ(headerBytes(queue), features == 0 ? 10 : 12);
    }
    bool deleted = false;
    EXPECT_FALSE(deleteLink("pod0", *ifindex, &deleted));
  });
}

}  // namespace
}  // namespace vu::test
