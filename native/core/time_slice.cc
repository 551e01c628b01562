#include "time_slice.h"

#include <sys/syscall.h>
#include <unistd.h>

namespace vu {
namespace {

// include/uapi/linux/sched/types.h, SCHED_ATTR_SIZE_VER0; glibc declares it from 2.41 on.
struct SchedAttr {
  uint32_t size;
  uint32_t policy;
  uint64_t flags;
  int32_t nice;
  uint32_t priority;
  uint64_t runtime;
  uint64_t deadline;
  uint64_t period;
};
static_assert(sizeof(SchedAttr) == 48);

}  // namespace

bool requestTimeSlice(uint64_t sliceNs) noexcept {
  SchedAttr attr{};
  if (::syscall(SYS_sched_getattr, 0, &attr, sizeof attr, 0) != 0) return false;
  attr.runtime = sliceNs;
  return ::syscall(SYS_sched_setattr, 0, &attr, 0) == 0;
}

}  // namespace vu
