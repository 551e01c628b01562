// Control sockets without JavaScript: what the reactor and the sending thread do to one socket at a time, under the
// sanitizers.
#include "stream_socket.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <array>
#include <condition_variable>
#include <cstring>
#include <filesystem>
#include <string>
#include <thread>

namespace vu {
namespace {

using namespace std::chrono_literals;

size_t openDescriptors() {
  size_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) ++count;
  return count;
}

// What a socket has said so far.
class Seen {
 public:
  StreamSocket::Handlers handlers() {
    return {[this](Chunk chunk) {
              const std::lock_guard lock(mutex_);
              bytes_.append(chunk.bytes.begin(), chunk.bytes.end());
              fds_ += chunk.fds.size();
              changed_.notify_all();
              if (resumes_ && socket_) socket_->resume();
            },
            [this](std::optional<Fault> fault) {
              const std::lock_guard lock(mutex_);
              ++ends_;
              fault_ = fault;
              changed_.notify_all();
            }};
  }
  void follow(std::shared_ptr<StreamSocket> socket, bool resumes = true) {
    const std::lock_guard lock(mutex_);
    socket_ = std::move(socket);
    resumes_ = resumes;
  }
  bool ended() {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, 20s, [this] { return ends_ > 0; });
  }
  bool has(size_t bytes) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, 20s, [&] { return bytes_.size() >= bytes; });
  }
  std::string bytes() {
    const std::lock_guard lock(mutex_);
    return bytes_;
  }
  size_t fds() {
    const std::lock_guard lock(mutex_);
    return fds_;
  }
  int ends() {
    const std::lock_guard lock(mutex_);
    return ends_;
  }
  std::optional<Fault> fault() {
    const std::lock_guard lock(mutex_);
    return fault_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::shared_ptr<StreamSocket> socket_;
  bool resumes_ = true;
  std::string bytes_;
  size_t fds_ = 0;
  int ends_ = 0;
  std::optional<Fault> fault_;
};

class StreamSocketTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto reactor = Reactor::start();
    ASSERT_TRUE(reactor.ok());
    reactor_ = reactor.value();
    int ends[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    peer_ = UniqueFd(ends[0]);
    fd_ = UniqueFd(ends[1]);
  }
  void TearDown() override {
    seen_.follow(nullptr);
    reactor_->stop();
  }
  std::shared_ptr<StreamSocket> open(bool resumes = true) {
    auto socket = StreamSocket::open(reactor_, std::move(fd_), seen_.handlers());
    EXPECT_TRUE(socket.ok());
    seen_.follow(socket.value(), resumes);
    return socket.value();
  }
  void peerSends(const std::string& bytes, size_t fds = 0) {
    std::vector<int> numbers(fds, peer_.get());
    iovec part{const_cast<char*>(bytes.data()), bytes.size()};
    std::vector<char> control(CMSG_SPACE(sizeof(int) * fds));
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    if (fds > 0) {
      message.msg_control = control.data();
      message.msg_controllen = control.size();
      cmsghdr* header = CMSG_FIRSTHDR(&message);
      header->cmsg_level = SOL_SOCKET;
      header->cmsg_type = SCM_RIGHTS;
      header->cmsg_len = CMSG_LEN(sizeof(int) * fds);
      std::memcpy(CMSG_DATA(header), numbers.data(), sizeof(int) * fds);
    }
    ASSERT_EQ(::sendmsg(peer_.get(), &message, MSG_NOSIGNAL), static_cast<ssize_t>(bytes.size()));
  }
  // Comes back when everything that was ready before has been dealt with: the kernel's list of ready descriptors is a
  // queue.
  void letReactorCatchUp() {
    for (int round = 0; round < 2; ++round) {
      int ends[2];
      ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
      const UniqueFd far(ends[0]);
      Seen seen;
      auto socket = StreamSocket::open(reactor_, UniqueFd(ends[1]), seen.handlers());
      ASSERT_TRUE(socket.ok());
      ASSERT_EQ(::send(far.get(), "x", 1, MSG_NOSIGNAL), 1);
      ASSERT_TRUE(seen.has(1));
      socket.value()->close();
    }
  }
  static Result<void> send(StreamSocket& socket, const std::string& bytes) {
    return socket.send(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size(), {});
  }

  std::shared_ptr<Reactor> reactor_;
  UniqueFd peer_;
  UniqueFd fd_;
  Seen seen_;
};

TEST_F(StreamSocketTest, TakesThirtyTwoDescriptorsWithOneMessage) {
  auto socket = open();
  peerSends("x", 32);
  ASSERT_TRUE(seen_.has(1));
  EXPECT_EQ(seen_.fds(), 32u);
  socket->close();
}

TEST_F(StreamSocketTest, MoreDescriptorsThanItTakesEndItAndAreClosed) {
  const size_t before = openDescriptors();
  auto socket = open();
  peerSends("x", 40);
  ASSERT_TRUE(seen_.ended());
  ASSERT_TRUE(seen_.fault().has_value());
  EXPECT_EQ(seen_.fault()->errnum, EPROTO);
  EXPECT_NE(std::string(seen_.fault()->operation).find("MSG_CTRUNC"), std::string::npos);
  EXPECT_EQ(seen_.bytes(), "");
  EXPECT_EQ(openDescriptors(), before);
  socket->close();
}

TEST_F(StreamSocketTest, ReadsNothingUntilItIsResumed) {
  auto socket = open(false);
  peerSends("first");
  ASSERT_TRUE(seen_.has(5));
  peerSends("second");
  peer_.reset();
  // Hanging up wakes a descriptor whether it is armed for it or not: neither data nor an end may come of it.
  EXPECT_FALSE(send(*socket, "into the void").ok());
  letReactorCatchUp();
  EXPECT_EQ(seen_.bytes(), "first");
  EXPECT_EQ(seen_.ends(), 0);
  seen_.follow(socket);
  socket->resume();
  ASSERT_TRUE(seen_.ended());
  EXPECT_EQ(seen_.bytes(), "firstsecond");
  EXPECT_EQ(seen_.ends(), 1);
}

TEST_F(StreamSocketTest, WhatThePeerSaidBeforeItDiedIsHeardThoughOursIsLost) {
  auto socket = open(false);
  peerSends("a");
  ASSERT_TRUE(seen_.has(1));
  // Paused: the queue fills, then the peer goes with its last words unread by us.
  const std::string megabyte(1 << 20, 'x');
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(send(*socket, megabyte).ok());
  ASSERT_GT(socket->pendingBytes(), 0u);
  peerSends("last words");
  peer_.reset();
  seen_.follow(socket);
  socket->resume();
  ASSERT_TRUE(seen_.ended());
  EXPECT_EQ(seen_.bytes(), "alast words");
  ASSERT_TRUE(seen_.fault().has_value());
  EXPECT_TRUE(seen_.fault()->errnum == EPIPE || seen_.fault()->errnum == ECONNRESET);
  EXPECT_EQ(socket->pendingBytes(), 0u);
  EXPECT_FALSE(send(*socket, "x").ok());
}

TEST_F(StreamSocketTest, APeerThatOnlyStopsReadingEndsItToo) {
  auto socket = open();
  const std::string megabyte(1 << 20, 'x');
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(send(*socket, megabyte).ok());
  ASSERT_EQ(::shutdown(peer_.get(), SHUT_RD), 0);
  // The kernel says so only to one who writes, and a full socket is not writable: what is in it goes first.
  std::vector<char> buffer(1 << 16);
  while (::recv(peer_.get(), buffer.data(), buffer.size(), 0) > 0) {
  }
  ASSERT_TRUE(seen_.ended());
  ASSERT_TRUE(seen_.fault().has_value());
  EXPECT_EQ(seen_.fault()->errnum, EPIPE);
}

TEST_F(StreamSocketTest, AMessageThatDoesNotFitTheQueueIsRefusedWhole) {
  auto socket = open();
  const std::string large(StreamSocket::kQueueLimitBytes + 1, 'x');
  const Result<void> refused = send(*socket, large);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.fault().errnum, ENOBUFS);
  std::array<char, 1> byte;
  EXPECT_EQ(::recv(peer_.get(), byte.data(), byte.size(), MSG_DONTWAIT), -1);
  EXPECT_EQ(socket->pendingBytes(), 0u);
}

TEST_F(StreamSocketTest, ClosesAfterAGraceThoughThePeerNeverReads) {
  auto socket = open();
  const std::string megabyte(1 << 20, 'x');
  ASSERT_TRUE(send(*socket, megabyte).ok());
  const auto since = std::chrono::steady_clock::now();
  socket->close();
  seen_.follow(nullptr);
  socket.reset();
  // The peer reads what the kernel holds; then comes the end, not more than the grace later.
  ASSERT_EQ(::recv(peer_.get(), nullptr, 0, MSG_PEEK), 0);
  pollfd wait{peer_.get(), POLLRDHUP, 0};
  ASSERT_EQ(::poll(&wait, 1, 10'000), 1);
  const auto waited = std::chrono::steady_clock::now() - since;
  EXPECT_GE(waited, StreamSocket::kCloseGrace - 50ms);
  EXPECT_LT(waited, StreamSocket::kCloseGrace + 5s);
  EXPECT_EQ(seen_.ends(), 0);
}

TEST_F(StreamSocketTest, ClosesAsSoonAsTheQueueIsOut) {
  auto socket = open();
  const std::string sent(3 << 20, 'q');
  ASSERT_TRUE(send(*socket, sent).ok());
  socket->close();
  std::string received;
  std::vector<char> buffer(1 << 16);
  for (;;) {
    const ssize_t count = ::recv(peer_.get(), buffer.data(), buffer.size(), 0);
    ASSERT_GE(count, 0);
    if (count == 0) break;
    received.append(buffer.data(), static_cast<size_t>(count));
  }
  EXPECT_EQ(received, sent);
}

TEST_F(StreamSocketTest, SenderAndReactorWorkOnOneSocketAtOnce) {
  auto socket = open();
  std::thread peer([this] {
    std::vector<char> buffer(1 << 14);
    for (;;) {
      const ssize_t count = ::recv(peer_.get(), buffer.data(), buffer.size(), 0);
      if (count <= 0) return;
      for (ssize_t sent = 0; sent < count;) {
        const ssize_t done = ::send(peer_.get(), buffer.data() + sent, static_cast<size_t>(count - sent), MSG_NOSIGNAL);
        if (done < 0) return;
        sent += done;
      }
    }
  });
  std::string sent;
  for (uint32_t i = 0; i < 20'000; ++i) {
    std::string message(reinterpret_cast<const char*>(&i), sizeof i);
    message.resize(4 + i % 61, static_cast<char>(i));
    ASSERT_TRUE(send(*socket, message).ok());
    sent += message;
  }
  EXPECT_TRUE(seen_.has(sent.size()));
  EXPECT_EQ(seen_.bytes(), sent);
  socket->close();
  peer.join();
}

TEST_F(StreamSocketTest, MayBeClosedWhileEventsAreUnderWay) {
  for (int round = 0; round < 200; ++round) {
    int ends[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    const UniqueFd peer(ends[0]);
    Seen seen;
    auto socket = StreamSocket::open(reactor_, UniqueFd(ends[1]), seen.handlers());
    ASSERT_TRUE(socket.ok());
    ASSERT_EQ(::send(peer.get(), "x", 1, MSG_NOSIGNAL), 1);
    ASSERT_TRUE(seen.has(1));
    std::thread other([&] { socket.value()->resume(); });
    if (round % 2 == 0)
      socket.value()->close();
    else
      socket.value()->discard();
    other.join();
  }
}

TEST(Reactor, LetsItsWatchersGoWhenItStops) {
  const size_t before = openDescriptors();
  {
    auto reactor = Reactor::start();
    ASSERT_TRUE(reactor.ok());
    int ends[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    const UniqueFd peer(ends[0]);
    ASSERT_TRUE(
        StreamSocket::open(reactor.value(), UniqueFd(ends[1]), {[](Chunk) {}, [](std::optional<Fault>) {}}).ok());
    reactor.value()->stop();
    reactor.value()->stop();
  }
  EXPECT_EQ(openDescriptors(), before);
}

class ListenSocketTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "vu-listen-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
    auto reactor = Reactor::start();
    ASSERT_TRUE(reactor.ok());
    reactor_ = reactor.value();
  }
  void TearDown() override {
    reactor_->stop();
    std::filesystem::remove_all(directory_);
  }
  UnixPath path() const { return UnixPath{directory_, "a.sock"}; }

  std::string directory_;
  std::shared_ptr<Reactor> reactor_;
};

TEST_F(ListenSocketTest, HandsOverOneConnectionAtATime) {
  auto bound = listenUnix(path(), 0600, std::nullopt, 16);
  ASSERT_TRUE(bound.ok());
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<UniqueFd> accepted;
  auto listener = ListenSocket::open(reactor_, std::move(bound).value(),
                                     {[&](UniqueFd fd, PeerCredentials peer) {
                                        const std::lock_guard lock(mutex);
                                        EXPECT_EQ(peer.pid, ::getpid());
                                        accepted.push_back(std::move(fd));
                                        changed.notify_all();
                                      },
                                      [](Fault) {}});
  ASSERT_TRUE(listener.ok());
  std::vector<UniqueFd> clients;
  for (int i = 0; i < 5; ++i) {
    auto client = connectUnix(path());
    ASSERT_TRUE(client.ok());
    clients.push_back(std::move(client).value());
  }
  for (size_t i = 1; i <= 5; ++i) {
    std::unique_lock lock(mutex);
    ASSERT_TRUE(changed.wait_for(lock, 20s, [&] { return accepted.size() >= i; }));
    EXPECT_EQ(accepted.size(), i);
    lock.unlock();
    listener.value()->resume();
  }
  listener.value()->close();
  EXPECT_FALSE(std::filesystem::exists(directory_ + "/a.sock"));
  EXPECT_EQ(connectUnix(path()).fault().errnum, ENOENT);
}

TEST_F(ListenSocketTest, MayBeTheLastOwnerOfItselfWhenTheReactorStops) {
  auto bound = listenUnix(path(), 0600, std::nullopt, 16);
  ASSERT_TRUE(bound.ok());
  ASSERT_TRUE(
      ListenSocket::open(reactor_, std::move(bound).value(), {[](UniqueFd, PeerCredentials) {}, [](Fault) {}}).ok());
  reactor_->stop();
  EXPECT_FALSE(std::filesystem::exists(directory_ + "/a.sock"));
}

}  // namespace
}  // namespace vu
