// What a program prints is held in memory: no more of it than its limit says, however fast it comes.
#include "child_process.h"

#include <gtest/gtest.h>

namespace vu::test {
namespace {

constexpr size_t kLimitBytes = 64 << 10;
constexpr size_t kOneReadBytes = 16 << 10;

ChildResult run(const std::string& script) {
  ChildSpec spec;
  spec.path = "/bin/sh";
  spec.input = script;
  spec.timeoutMs = 10'000;
  spec.outputLimitBytes = kLimitBytes;
  const auto control = ChildControl::create();
  EXPECT_TRUE(control.ok());
  Result<ChildResult> result = runChild(spec, *control.value(), [](const std::string&) {});
  EXPECT_TRUE(result.ok());
  return std::move(result).value();
}

TEST(ChildProcess, ThatFloodsIsHeldToItsLimitAndOneRead) {
  for (int round = 0; round < 20; ++round) {
    // Faster than it is read: a read that is short, because nothing is left, hardly comes.
    const ChildResult one = run("cat /dev/zero & cat /dev/zero & cat /dev/zero & cat /dev/zero & wait\n");
    EXPECT_EQ(one.end, ChildEnd::kFlooded);
    EXPECT_LE(one.output.size(), kLimitBytes + kOneReadBytes);
    const ChildResult both = run("cat /dev/zero & cat /dev/zero & cat /dev/zero >&2 & cat /dev/zero >&2 & wait\n");
    EXPECT_EQ(both.end, ChildEnd::kFlooded);
    EXPECT_LE(both.output.size() + both.errors.size(), kLimitBytes + kOneReadBytes);
  }
}

TEST(ChildProcess, ThatPrintsAsMuchAsItMayIsHeardToItsEnd) {
  const ChildResult result = run("head -c 65536 /dev/zero\n");
  EXPECT_EQ(result.end, ChildEnd::kExited);
  EXPECT_EQ(result.output.size(), kLimitBytes);
}

}  // namespace
}  // namespace vu::test
