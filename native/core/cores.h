// On which cores the threads of this process run.
//
// A thread that wakes on a polling core waits until the poller's turn ends: a tick of the kernel, up to 4 ms, where an
// ADD is a chain of some twenty wake-ups. So all threads keep off such cores but those that move packets: these have as
// much work as the poller, and on two cores were slower with one core for everybody.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "result.h"

namespace vu {

// The calling thread, for as long as this lives, may run wherever this process may.
class AnyCore {
 public:
  AnyCore() noexcept;
  ~AnyCore();
  AnyCore(const AnyCore&) = delete;
  AnyCore& operator=(const AnyCore&) = delete;
};

// The calling thread runs a program, for as long as this lives. As many of them as there are cores that are left keep
// off the others, one more may run anywhere: 32 ADDs at once took a third longer without the polling core.
class ProgramPlace {
 public:
  ProgramPlace() noexcept;
  ~ProgramPlace();
  ProgramPlace(const ProgramPlace&) = delete;
  ProgramPlace& operator=(const ProgramPlace&) = delete;

 private:
  std::optional<AnyCore> anyCore_;
};

// Threads without one of the above, and what they start, keep off `cores`; none: they run wherever this process may.
// Before Linux 6.2 it holds until the cpuset of the process changes, so that it is to be said again now and then.
// false: nothing else is left to the process, and nothing has changed. Not from two threads at once.
Result<bool> keepOffCores(const std::vector<uint32_t>& cores) noexcept;

}  // namespace vu
