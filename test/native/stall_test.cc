// A backend that takes nothing is told of once it has done so long enough in this session. The pump's clock is the
// test's: the pair is owned by its thread, and settles when told to.
#include <sys/epoll.h>

#include "harness.h"

namespace vu::test {
namespace {

TEST(Stall, OfAnEarlierSessionDoesNotCountForTheNext) {
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
  const UniqueFd pod(ends[1]);
  const UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
  const auto kicker = Kicker::create();
  ASSERT_TRUE(kicker.ok());
  kicker.value()->enter();
  PumpScratch scratch;
  PumpContext context;
  context.epollFd = epoll.get();
  context.scratch = &scratch;
  context.kicker = kicker.value().get();
  auto shared = std::make_shared<PortShared>();
  int stalls = 0;
  shared->listener = [&](PortEventKind kind, const char*) { stalls += kind == PortEventKind::kBackendStalled ? 1 : 0; };
  QueuePair pair(UniqueFd(ends[0]), 0, shared);
  pair.attach(&context);
  const auto begin = [&] {
    auto session = Session::create({1, 256, 4096, kUsualFeatures, MemoryKind::kMemfd});
    ASSERT_TRUE(session.ok());
    pair.start(std::move(session).value(), shared, StartOptions());
    const Bytes frame = plainFrame(100, 1);
    ASSERT_GT(::send(pod.get(), frame.data(), frame.size(), MSG_NOSIGNAL), 0);
    ASSERT_EQ(pair.round(), 1U);
  };
  const auto settle = [&](uint32_t seconds) {
    for (uint32_t i = 0; i < seconds; ++i) pair.settle();
  };
  begin();
  settle(QueuePair::kStallSeconds - 1);
  pair.stop();
  begin();
  settle(QueuePair::kStallSeconds - 1);
  EXPECT_EQ(stalls, 0);
  settle(1);
  EXPECT_EQ(stalls, 1);
  pair.stop();
}

}  // namespace
}  // namespace vu::test
