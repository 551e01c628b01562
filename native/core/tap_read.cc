#include "tap_read.h"

#include <sys/syscall.h>
#include <unistd.h>

ssize_t vuReadTap(int fd, const iovec* parts, int count) noexcept {
  if (count == 1) return ::syscall(SYS_read, fd, parts->iov_base, parts->iov_len);
  return ::syscall(SYS_readv, fd, parts, count);
}
