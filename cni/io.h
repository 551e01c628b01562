/// Time and waiting: everything that may block does so until a deadline on the monotonic clock, in milliseconds.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

int64_t now_ms(void);

/// Waits for `events` (poll(2)) or for an end of file or error of `fd`; false when the deadline has come.
bool wait_for(int fd, short events, int64_t deadline_ms);

/// Sleeps for `duration_ms`, but not past the deadline.
void sleep_for(int64_t duration_ms, int64_t deadline_ms);

/// Writes everything, also to a pipe that nobody reads or that does not block; false with errno set (ETIMEDOUT at the
/// deadline).
bool write_all(int fd, const void* bytes, size_t length, int64_t deadline_ms);

/// Makes sure that descriptors 0 to 2 are taken, so that no socket or file of ours lands on one of them.
bool take_standard_descriptors(void);
