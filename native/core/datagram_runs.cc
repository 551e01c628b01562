#include "datagram_runs.h"

#include <sys/utsname.h>

#include <cstdio>

namespace vu {

bool kernelTakesDatagramRuns() noexcept {
  static const bool takes = [] {
    utsname kernel{};
    return ::uname(&kernel) == 0 && takesDatagramRuns(kernel.release);
  }();
  return takes;
}

bool takesDatagramRuns(const char* release) noexcept {
  int major = 0;
  int minor = 0;
  if (std::sscanf(release, "%d.%d", &major, &minor) != 2) return false;
  return major > 6 || (major == 6 && minor >= 9);
}

}  // namespace vu
