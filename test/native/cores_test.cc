#include "cores.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <list>
#include <optional>
#include <thread>
#include <vector>

namespace vu::test {
namespace {

cpu_set_t ownCores() {
  cpu_set_t set{};
  EXPECT_EQ(::sched_getaffinity(0, sizeof set, &set), 0);
  return set;
}

std::vector<uint32_t> listed(const cpu_set_t& set) {
  std::vector<uint32_t> cores;
  for (uint32_t core = 0; core < CPU_SETSIZE; core++) {
    if (CPU_ISSET(core, &set)) cores.push_back(core);
  }
  return cores;
}

// A thread that tells where it may run each time it is asked.
class Asked {
 public:
  enum Kind { kUsual, kPackets, kProgram };
  explicit Asked(Kind kind)
      : thread_([this, kind] {
          std::optional<AnyCore> anyCore;
          std::optional<ProgramPlace> program;
          if (kind == kPackets) anyCore.emplace();
          if (kind == kProgram) program.emplace();
          answer_ = ownCores();
          answered_ = 1;
          answered_.notify_all();
          for (int question = 1;; question++) {
            asked_.wait(question - 1);
            if (asked_ < 0) return;
            answer_ = ownCores();
            answered_ = question + 1;
            answered_.notify_all();
          }
        }) {
    answered_.wait(0);
  }
  ~Asked() {
    asked_ = -1;
    asked_.notify_all();
    thread_.join();
  }
  std::vector<uint32_t> cores() {
    const int before = answered_;
    asked_++;
    asked_.notify_all();
    answered_.wait(before);
    return listed(answer_);
  }

 private:
  std::atomic<int> asked_ = 0, answered_ = 0;
  cpu_set_t answer_{};
  std::thread thread_;
};

class Cores : public testing::Test {
 protected:
  void SetUp() override {
    all_ = listed(ownCores());
    if (all_.size() < 2) GTEST_SKIP() << "this process has one core";
    most_.assign(all_.begin() + 1, all_.end());
  }
  void TearDown() override { EXPECT_TRUE(keepOffCores({}).ok()); }

  std::vector<uint32_t> all_, most_;
};

TEST_F(Cores, ThreadsKeepOffButThoseThatMovePackets) {
  Asked usual(Asked::kUsual), packets(Asked::kPackets);
  ASSERT_TRUE(keepOffCores({all_[0]}).value());
  EXPECT_EQ(listed(ownCores()), most_);
  EXPECT_EQ(usual.cores(), most_);
  EXPECT_EQ(packets.cores(), all_);
}

TEST_F(Cores, AThreadStartedLaterDoesTheSame) {
  ASSERT_TRUE(keepOffCores({all_[0]}).value());
  Asked usual(Asked::kUsual), packets(Asked::kPackets);
  EXPECT_EQ(usual.cores(), most_);
  EXPECT_EQ(packets.cores(), all_);
}

TEST_F(Cores, AsManyProgramsAsCoresAreLeftKeepOffAndTheNextRunsAnywhere) {
  ASSERT_TRUE(keepOffCores({all_[0]}).value());
  std::list<Asked> programs;
  for (size_t i = 0; i < most_.size(); i++) EXPECT_EQ(programs.emplace_back(Asked::kProgram).cores(), most_);
  EXPECT_EQ(Asked(Asked::kProgram).cores(), all_);
  programs.pop_back();
  EXPECT_EQ(Asked(Asked::kProgram).cores(), most_);
}

TEST_F(Cores, WithNoneNamedAllRunWhereTheyCouldAtTheStart) {
  Asked usual(Asked::kUsual);
  ASSERT_TRUE(keepOffCores({all_[0]}).value());
  ASSERT_TRUE(keepOffCores({}).value());
  EXPECT_EQ(usual.cores(), all_);
  EXPECT_EQ(listed(ownCores()), all_);
}

TEST_F(Cores, OthersNamedLaterTakeThePlaceOfTheFirst) {
  ASSERT_TRUE(keepOffCores({all_[0]}).value());
  ASSERT_TRUE(keepOffCores({all_[1]}).value());
  const std::vector<uint32_t> now = listed(ownCores());
  EXPECT_NE(std::find(now.begin(), now.end(), all_[0]), now.end());
  EXPECT_EQ(std::find(now.begin(), now.end(), all_[1]), now.end());
}

TEST_F(Cores, NothingChangesWhenNoCoreWouldBeLeft) {
  ASSERT_TRUE(keepOffCores({all_[0]}).value());
  EXPECT_FALSE(keepOffCores(all_).value());
  EXPECT_EQ(listed(ownCores()), most_);
}

TEST_F(Cores, OfNoKernelAreNamedInVain) {
  ASSERT_TRUE(keepOffCores({5000, 4'294'967'295}).value());
  EXPECT_EQ(listed(ownCores()), all_);
}

}  // namespace
}  // namespace vu::test
