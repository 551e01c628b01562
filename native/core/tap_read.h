// How the pump reads a pod's frame.
#pragma once

#include <sys/types.h>
#include <sys/uio.h>

// As readv(2), with errno. Not the C library's, which may be cancelled: in a process with threads the two atomic
// operations for that were a twelfth of what the pump does for a small frame.
extern "C" ssize_t vuReadTap(int fd, const iovec* parts, int count) noexcept;
