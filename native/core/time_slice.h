// How long a thread keeps a core that others want too.
#pragma once

#include <cstdint>

namespace vu {

// Asks for turns of `sliceNs` (100 us to 100 ms) for the calling thread; its share of the core and its nice value stay.
// Linux honours it from 6.12 on and ignores it before (sched_setattr(2), sched_runtime of SCHED_OTHER). false: refused,
// by a seccomp filter for one.
bool requestTimeSlice(uint64_t sliceNs) noexcept;

}  // namespace vu
