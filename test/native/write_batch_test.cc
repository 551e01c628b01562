// Writes in one call: the results and the order of writes one by one, whatever becomes of each.
//
// Datagram sockets stand for TAPs: each write is a frame, and one that the other end cannot take is refused.
#include "write_batch.h"

#include <sys/socket.h>

#include <deque>

#include "harness.h"

namespace vu::test {
namespace {

class WriteBatches : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    batch_ = std::make_unique<WriteBatch>(GetParam());
    ASSERT_EQ(batch_->together(), GetParam());
    for (auto& ends : pairs_) {
      int fds[2];
      ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), 0);
      ends = {UniqueFd(fds[0]), UniqueFd(fds[1])};
    }
  }
  int tap(size_t i) const { return pairs_[i].first.get(); }
  std::string received(size_t i) const {
    std::array<char, 4096> data;
    const ssize_t got = ::recv(pairs_[i].second.get(), data.data(), data.size(), 0);
    return got < 0 ? "nothing" : std::string(data.data(), static_cast<size_t>(got));
  }
  // Where it stays.
  iovec kept(const std::string& text) {
    std::string& own = texts_.emplace_back(text);
    return {own.data(), own.size()};
  }
  void add(size_t i, const std::vector<std::string>& parts) {
    std::vector<iovec> spans;
    for (const std::string& part : parts) spans.push_back(kept(part));
    batch_->add(tap(i), spans.data(), static_cast<uint32_t>(spans.size()), false);
  }
  std::vector<int64_t> submit() {
    const auto results = batch_->submit();
    return {results.begin(), results.end()};
  }

  std::unique_ptr<WriteBatch> batch_;
  std::deque<std::string> texts_;
  std::array<std::pair<UniqueFd, UniqueFd>, 2> pairs_;
};
INSTANTIATE_TEST_SUITE_P(Contexts, WriteBatches, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "together" : "singly"; });

TEST_P(WriteBatches, ArriveWholeAndInOrderWithWhatEachWrote) {
  add(0, {"one"});
  add(0, {"in ", "three ", "parts"});
  add(1, {"last"});
  EXPECT_EQ(batch_->size(), 3U);
  EXPECT_EQ(submit(), (std::vector<int64_t>{3, 14, 4}));
  EXPECT_EQ(received(0), "one");
  EXPECT_EQ(received(0), "in three parts");
  EXPECT_EQ(received(0), "nothing");
  EXPECT_EQ(received(1), "last");
  EXPECT_EQ(batch_->size(), 0U);
  EXPECT_TRUE(submit().empty());
}

TEST_P(WriteBatches, OneThatIsRefusedLeavesTheOthersAlone) {
  const std::string frame = "frame";
  pairs_[1].second.reset();
  add(0, {frame});
  add(1, {frame});
  const iovec span = kept(frame);
  batch_->add(-1, &span, 1, false);
  add(0, {frame, frame});
  EXPECT_EQ(submit(), (std::vector<int64_t>{5, -EPIPE, -EBADF, 10}));
  EXPECT_EQ(received(0), "frame");
  EXPECT_EQ(received(0), "frameframe");
  add(0, {frame});
  EXPECT_EQ(submit(), (std::vector<int64_t>{5}));
}

TEST_P(WriteBatches, FirstPartMayBeUsedAgainBeforeTheyGo) {
  std::string headers = "headers of the first ";
  const std::array<iovec, 2> parts = {iovec{headers.data(), headers.size()}, kept("payload")};
  batch_->add(tap(0), parts.data(), 2, true);
  batch_->add(tap(0), parts.data(), 2, true);
  headers.assign(headers.size(), 'x');
  submit();
  EXPECT_EQ(received(0), "headers of the first payload");
  EXPECT_EQ(received(0), "headers of the first payload");
}

TEST_P(WriteBatches, FullBatchIsWrittenAndTakesAsManyAgain) {
  const std::string frame = "frame";
  for (int round = 0; round < 3; ++round) {
    uint32_t added = 0;
    for (; batch_->hasRoom(); ++added) add(0, {frame});
    EXPECT_EQ(added, WriteBatch::kMostWrites);
    const int size = 1 << 20;
    ASSERT_EQ(::setsockopt(tap(0), SOL_SOCKET, SO_SNDBUF, &size, sizeof size), 0);
    EXPECT_EQ(submit(), std::vector<int64_t>(WriteBatch::kMostWrites, 5));
    for (uint32_t i = 0; i < added; ++i) ASSERT_EQ(received(0), "frame") << i;
  }
  const std::vector<std::string> most(WriteBatch::kMostParts, "x");
  uint32_t added = 0;
  for (; batch_->hasRoom(); ++added) add(0, most);
  EXPECT_GE(added, 4U);
  EXPECT_EQ(submit(), std::vector<int64_t>(added, WriteBatch::kMostParts));
}

// More than the socket holds: as a TAP whose pod's queue is full.
TEST_P(WriteBatches, WhatDoesNotFitIsRefusedAndWhatCameBeforeIsThere) {
  const std::string frame(4000, 'x');
  std::vector<int64_t> results;
  while (results.empty() || results.back() > 0) {
    while (batch_->hasRoom()) add(0, {frame});
    results = submit();
  }
  EXPECT_EQ(results.back(), -EAGAIN);
  uint32_t there = 0;
  while (received(0) == frame) ++there;
  EXPECT_GT(there, 0U);
}

}  // namespace
}  // namespace vu::test
