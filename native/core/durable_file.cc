#include "durable_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "unique_fd.h"

namespace vu {
namespace {

Result<void> writeAll(const UniqueFd& file, const std::string& contents) noexcept {
  size_t written = 0;
  while (written < contents.size()) {
    const ssize_t count = ::write(file.get(), contents.data() + written, contents.size() - written);
    if (count < 0 && errno != EINTR) return lastFault("write");
    if (count > 0) written += static_cast<size_t>(count);
  }
  return {};
}

}  // namespace

Result<void> replaceFile(const std::string& temporary, const std::string& path, const std::string& contents) noexcept {
  UniqueFd file(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!file) return lastFault("open");
  Result<void> result = writeAll(file, contents);
  if (result.ok() && ::fdatasync(file.get()) != 0) result = lastFault("fdatasync");
  if (result.ok() && ::rename(temporary.c_str(), path.c_str()) != 0) result = lastFault("rename");
  if (!result.ok()) ::unlink(temporary.c_str());
  return result;
}

Result<void> syncDirectory(const std::string& path) noexcept {
  UniqueFd directory(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory) return lastFault("open");
  if (::fsync(directory.get()) != 0) return lastFault("fsync");
  return {};
}

}  // namespace vu
