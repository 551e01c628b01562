#include "netns.h"

#include <fcntl.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <sys/ioctl.h>

namespace vu {

Result<void> checkNetns(int fd) noexcept {
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
  if (::setns(fd, CLONE_NEWNET) != 0) return lastFault("setns");
  return {};
}

}  // namespace vu
