// What reaches the disk in which order, and what a failure at each step leaves.
//
// A binary of its own: the linker puts __wrap_… in the place of write, fdatasync, fsync and rename.
#include "durable_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace {

// One call fails with this errno, or writes this much only.
std::string_view failing;
int failure = 0;
size_t mostBytes = SIZE_MAX;
bool interrupted = false;
std::vector<std::string> calls;

// 0, or the errno of this call.
int told(std::string_view name) {
  calls.emplace_back(name);
  return name == failing ? failure : 0;
}

}  // namespace

extern "C" {
ssize_t __real_write(int fd, const void* data, size_t bytes);
ssize_t __wrap_write(int fd, const void* data, size_t bytes);
int __real_fdatasync(int fd);
int __wrap_fdatasync(int fd);
int __real_fsync(int fd);
int __wrap_fsync(int fd);
int __real_rename(const char* from, const char* to);
int __wrap_rename(const char* from, const char* to);

ssize_t __wrap_write(int fd, const void* data, size_t bytes) {
  if (fd <= STDERR_FILENO) return __real_write(fd, data, bytes);
  errno = interrupted ? EINTR : told("write");
  if (std::exchange(interrupted, false) || errno != 0) return -1;
  return __real_write(fd, data, std::min(bytes, mostBytes));
}
int __wrap_fdatasync(int fd) { return (errno = told("fdatasync")) != 0 ? -1 : __real_fdatasync(fd); }
int __wrap_fsync(int fd) { return (errno = told("fsync")) != 0 ? -1 : __real_fsync(fd); }
int __wrap_rename(const char* from, const char* to) {
  return (errno = told("rename")) != 0 ? -1 : __real_rename(from, to);
}
}

namespace vu::test {
namespace {

class DurableFile : public ::testing::Test {
 protected:
  void SetUp() override {
    std::array<char, 32> name{"/tmp/vu-durable-XXXXXX"};
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    directory_ = name.data();
    calls.clear();
    failing = {};
    mostBytes = SIZE_MAX;
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  std::string at(const std::string& name) const { return directory_ + "/" + name; }
  std::string path() const { return at("record.json"); }
  std::string temporary() const { return at("record.json.1.tmp"); }
  Result<void> replace(const std::string& contents) { return replaceFile(temporary(), path(), contents); }

  static std::string contentsOf(const std::string& path) {
    std::ifstream file(path);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  std::vector<std::string> names() const {
    std::vector<std::string> found;
    for (const auto& entry : std::filesystem::directory_iterator(directory_)) found.push_back(entry.path().filename());
    return found;
  }

  std::string directory_;
};

TEST_F(DurableFile, IsWrittenMadeDurableAndOnlyThenRenamed) {
  ASSERT_TRUE(replace("one").ok());
  EXPECT_EQ(calls, (std::vector<std::string>{"write", "fdatasync", "rename"}));
  EXPECT_EQ(contentsOf(path()), "one");
  EXPECT_EQ(names(), std::vector<std::string>{"record.json"});
  struct stat status {};
  ASSERT_EQ(::stat(path().c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 0600U);
}

TEST_F(DurableFile, TakesThePlaceOfTheOldOne) {
  ASSERT_TRUE(replace("a long old record").ok());
  ASSERT_TRUE(replace("new").ok());
  EXPECT_EQ(contentsOf(path()), "new");
}

TEST_F(DurableFile, IsWholeAfterShortAndInterruptedWrites) {
  std::string contents;
  for (int i = 0; i < 1000; ++i) contents += std::to_string(i);
  mostBytes = 7;
  interrupted = true;
  ASSERT_TRUE(replace(contents).ok());
  EXPECT_EQ(contentsOf(path()), contents);
}

class DurableFileFailure : public DurableFile, public ::testing::WithParamInterface<const char*> {};

TEST_P(DurableFileFailure, LeavesTheOldFileAndNoTemporary) {
  ASSERT_TRUE(replace("old").ok());
  failing = GetParam();
  failure = ENOSPC;
  const Result<void> result = replace("new");
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.fault().errnum, ENOSPC);
  EXPECT_STREQ(result.fault().operation, GetParam());
  EXPECT_EQ(contentsOf(path()), "old");
  EXPECT_EQ(names(), std::vector<std::string>{"record.json"});
}

INSTANTIATE_TEST_SUITE_P(AtEachStep, DurableFileFailure, ::testing::Values("write", "fdatasync", "rename"));

TEST_F(DurableFile, IsNotWrittenThroughWhatLiesInTheTemporarysPlace) {
  std::ofstream(at("somebody's")) << "theirs";
  ASSERT_EQ(::symlink(at("somebody's").c_str(), temporary().c_str()), 0);
  const Result<void> result = replace("ours");
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.fault().errnum, EEXIST);
  EXPECT_EQ(contentsOf(at("somebody's")), "theirs");
}

TEST_F(DurableFile, NamesOfADirectoryAreDurableWhenItSaysSo) {
  ASSERT_TRUE(syncDirectory(directory_).ok());
  EXPECT_EQ(calls, std::vector<std::string>{"fsync"});
  failing = "fsync";
  failure = EIO;
  const Result<void> result = syncDirectory(directory_);
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.fault().errnum, EIO);
  EXPECT_EQ(syncDirectory(at("missing")).fault().errnum, ENOENT);
}

}  // namespace
}  // namespace vu::test
