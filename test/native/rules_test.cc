// Rules of the conformance list that belong to no single story: eventfds, signals, header size.
#include <fcntl.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/un.h>

#include <fstream>
#include <random>
#include <set>

#include "harness.h"
#include "stream_socket.h"

namespace vu::test {
namespace {

// The kernel's number of an eventfd: descriptors of one eventfd share it. -1: not an eventfd.
int eventfdId(int fd) {
  std::ifstream info("/proc/self/fdinfo/" + std::to_string(fd));
  for (std::string line; std::getline(info, line);) {
    if (line.starts_with("eventfd-id:")) return std::stoi(line.substr(11));
  }
  return -1;
}

TEST(Rules, S12_EveryRingOfEveryDeviceHasAKickAndACallOfItsOwn) {
  std::vector<std::shared_ptr<Session>> sessions;
  std::set<int> ids;
  for (const uint32_t pairs : {1U, 128U, 2U}) {
    auto made = Session::create({pairs, 64, 2048, kUsualFeatures, MemoryKind::kMemfd});
    ASSERT_TRUE(made.ok());
    sessions.push_back(std::move(made).value());
    for (uint32_t ring = 0; ring < 2 * pairs; ++ring) {
      for (const int fd : {sessions.back()->kickFd(ring), sessions.back()->callFd(ring)}) {
        const int id = eventfdId(fd);
        EXPECT_GE(id, 0) << "ring " << ring;
        EXPECT_TRUE(ids.insert(id).second) << "ring " << ring << " shares an eventfd";
      }
    }
  }
  EXPECT_EQ(ids.size(), 2U * 2U * 131U);
}

volatile sig_atomic_t pipeSignals = 0;

TEST(Rules, S14_SendOnADeadSocketIsAnErrorAndNoSignal) {
  struct sigaction counting = {};
  counting.sa_handler = [](int) { pipeSignals = pipeSignals + 1; };
  struct sigaction before = {};
  ASSERT_EQ(::sigaction(SIGPIPE, &counting, &before), 0);
  auto reactor = Reactor::start();
  ASSERT_TRUE(reactor.ok());
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  auto opened = StreamSocket::open(reactor.value(), UniqueFd(ends[0]), {[](Chunk) {}, [](std::optional<Fault>) {}});
  ASSERT_TRUE(opened.ok());
  ::close(ends[1]);
  const uint8_t bytes[20] = {};
  const auto sent = opened.value()->send(bytes, sizeof bytes, {});
  EXPECT_FALSE(sent.ok());
  EXPECT_EQ(sent.fault().errnum, EPIPE);
  // Large enough to be queued by one that still lived.
  const std::vector<uint8_t> large(1 << 20);
  EXPECT_FALSE(opened.value()->send(large.data(), large.size(), {}).ok());
  opened.value()->close();
  reactor.value()->stop();
  EXPECT_EQ(pipeSignals, 0);
  ::sigaction(SIGPIPE, &before, nullptr);
}

TEST(Rules, S23_HeaderHasTwelveBytesWithMergingVersion1OrPackedRingsElseTen) {
  std::mt19937_64 random(23);
  int seen[2] = {};
  for (int round = 0; round < 200; ++round) {
    const uint64_t features = random() & ((uint64_t{1} << 36) - 1);
    auto made = Session::create({1, 64, 2048, features, MemoryKind::kMemfd});
    const bool version1 = ((features >> 32) & 1) != 0;
    const bool packed = ((features >> 34) & 1) != 0;
    if (packed && !version1) {
      EXPECT_FALSE(made.ok());
      continue;
    }
    ASSERT_TRUE(made.ok()) << std::hex << features;
    const bool long_ = version1 || ((features >> 15) & 1) != 0;
    EXPECT_EQ(made.value()->headerBytes(), long_ ? 12U : 10U) << std::hex << features;
    ++seen[long_ ? 1 : 0];
  }
  EXPECT_GT(seen[0], 0);
  EXPECT_GT(seen[1], 0);
}

// Descriptors are counted per process: while it lasts nothing else of this test may open one.
class NoDescriptorsLeft {
 public:
  NoDescriptorsLeft() {
    ::getrlimit(RLIMIT_NOFILE, &before_);
    const int next = ::dup(0);
    ::close(next);
    const rlimit none{static_cast<rlim_t>(next), before_.rlim_max};
    ::setrlimit(RLIMIT_NOFILE, &none);
  }
  ~NoDescriptorsLeft() { ::setrlimit(RLIMIT_NOFILE, &before_); }

 private:
  rlimit before_{};
};

TEST(Rules, F49_WithoutDescriptorsAPeerIsTurnedAwayAndListeningGoesOn) {
  char directory[] = "/tmp/vu-rules-XXXXXX";
  ASSERT_NE(::mkdtemp(directory), nullptr);
  auto reactor = Reactor::start();
  ASSERT_TRUE(reactor.ok());
  const UnixPath path{directory, "vhost.sock"};
  auto bound = listenUnix(path, 0600, std::nullopt, 4);
  ASSERT_TRUE(bound.ok());
  Signal faults;
  Signal connections;
  auto listener =
      ListenSocket::open(reactor.value(), std::move(bound).value(),
                         {[&](UniqueFd, PeerCredentials) { connections.raise(); }, [&](Fault) { faults.raise(); }});
  ASSERT_TRUE(listener.ok());
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::snprintf(address.sun_path, sizeof address.sun_path, "%s/vhost.sock", directory);
  const UniqueFd early(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const UniqueFd turnedAway(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const UniqueFd served(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const auto connect = [&](const UniqueFd& fd) {
    return ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
  };
  // One before: also because UBSan judges the first call on a Watcher through a pipe, which it could not open later.
  ASSERT_EQ(connect(early), 0);
  EXPECT_TRUE(connections.wait());
  const auto closed = [](const UniqueFd& fd) {
    const timeval limit{5, 0};
    uint8_t byte = 0;
    return ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) == 0 &&
           ::recv(fd.get(), &byte, 1, 0) == 0;
  };
  ASSERT_TRUE(closed(early));  // its descriptor here is free again, and counted as such below
  listener.value()->resume();
  {
    const NoDescriptorsLeft none;
    ASSERT_EQ(connect(turnedAway), 0);
    EXPECT_TRUE(faults.wait());
    EXPECT_TRUE(closed(turnedAway));
    EXPECT_EQ(connections.count(), 1);
  }
  ASSERT_EQ(connect(served), 0);
  EXPECT_TRUE(connections.wait(2));
  listener.value()->close();
  reactor.value()->stop();
  EXPECT_EQ(::rmdir(directory), 0);
}

}  // namespace
}  // namespace vu::test
