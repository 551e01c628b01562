#include "io.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <time.h>
#include <unistd.h>

int64_t now_ms(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (int64_t)time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

bool wait_for(int fd, short events, int64_t deadline_ms) {
  for (;;) {
    int64_t left = deadline_ms - now_ms();
    if (left < 0) left = 0;
    struct pollfd poll_fd = {.fd = fd, .events = events};
    int ready = poll(&poll_fd, 1, left > INT_MAX ? INT_MAX : (int)left);
    if (ready > 0) return true;
    if (ready == 0 && now_ms() >= deadline_ms) return false;
    if (ready < 0 && errno != EINTR && errno != EAGAIN) return true;  // the next call on fd says what is wrong
  }
}

void sleep_for(int64_t duration_ms, int64_t deadline_ms) {
  int64_t until = now_ms() + duration_ms;
  if (until > deadline_ms) until = deadline_ms;
  struct timespec time = {.tv_sec = (time_t)(until / 1000), .tv_nsec = (long)(until % 1000 * 1000000)};
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL) == EINTR) continue;
}

bool write_all(int fd, const void* bytes, size_t length, int64_t deadline_ms) {
  const char* next = bytes;
  while (length != 0) {
    if (!wait_for(fd, POLLOUT, deadline_ms)) {
      errno = ETIMEDOUT;
      return false;
    }
    // A pipe that polls as writable takes this much without blocking (pipe(7)).
    ssize_t written = write(fd, next, length < PIPE_BUF ? length : PIPE_BUF);
    if (written > 0) {
      next += written;
      length -= (size_t)written;
    } else if (written == 0 || (errno != EINTR && errno != EAGAIN)) {
      if (written == 0) errno = EIO;
      return false;
    }
  }
  return true;
}

bool take_standard_descriptors(void) {
  struct pollfd fds[3] = {{.fd = 0}, {.fd = 1}, {.fd = 2}};
  while (poll(fds, 3, 0) < 0) {
    if (errno != EINTR && errno != EAGAIN) return false;
  }
  for (int fd = 0; fd < 3; fd++) {
    // Opened the wrong way round, so that reading a missing stdin and writing to a missing stdout fail.
    if ((fds[fd].revents & POLLNVAL) != 0 && open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY) != fd) return false;
  }
  return true;
}
