#include "netns.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/statfs.h>

namespace vu {

Result<void> checkNetns(int fd) noexcept {
  // An ioctl means something only to the file system that it is for.
  struct statfs status {};
  if (::fstatfs(fd, &status) != 0) return lastFault("fstatfs");
  if (status.f_type != NSFS_MAGIC) return Fault{EINVAL, "fstatfs"};
  const int type = ::ioctl(fd, NS_GET_NSTYPE);
  if (type != CLONE_NEWNET) return Fault{EINVAL, "ioctl NS_GET_NSTYPE"};
  return {};
}

Result<UniqueFd> openNetns(const std::string& path) noexcept {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd) return lastFault("open");
  const Result<void> checked = checkNetns(fd.get());
  if (!checked) return checked.fault();
  return fd;
}

Result<UniqueFd> ownNetns() noexcept {
  UniqueFd fd(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
  if (!fd) return lastFault("open");
  return fd;
}

Result<void> enterNetns(int fd) noexcept {
  // setns() would take a pidfd too.
  if (const Result<void> checked = checkNetns(fd); !checked) return checked.fault();
  if (::setns(fd, CLONE_NEWNET) != 0) return lastFault("setns");
  return {};
}

}  // namespace vu
