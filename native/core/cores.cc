#include "cores.h"

#include <dirent.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <set>

namespace vu {
namespace {

struct State {
  // What the kernel let this process have when it was first asked, before anything was changed here.
  cpu_set_t atStart{};
  int error = 0;
  std::mutex mutex;
  std::set<pid_t> anyCore;
  std::atomic<int> programs = 0;

  State() noexcept {
    if (::sched_getaffinity(0, sizeof atStart, &atStart) != 0) error = errno;
  }
};

State& state() noexcept {
  static State only;
  return only;
}

pid_t ownThread() noexcept { return static_cast<pid_t>(::syscall(SYS_gettid)); }

struct CloseDirectory {
  void operator()(DIR* directory) const noexcept { ::closedir(directory); }
};

// The threads of this process. One that starts meanwhile may be missing: it has the cores of the one that starts it.
Result<std::vector<pid_t>> threads() noexcept {
  const std::unique_ptr<DIR, CloseDirectory> directory(::opendir("/proc/self/task"));
  if (!directory) return lastFault("opendir");
  std::vector<pid_t> found;
  while (const dirent* entry = ::readdir(directory.get())) {
    const long thread = std::strtol(entry->d_name, nullptr, 10);
    if (thread > 0) found.push_back(static_cast<pid_t>(thread));
  }
  return found;
}

}  // namespace

AnyCore::AnyCore() noexcept {
  State& known = state();
  const std::lock_guard lock(known.mutex);
  known.anyCore.insert(ownThread());
  cpu_set_t inherited;
  if (known.error != 0 || ::sched_getaffinity(0, sizeof inherited, &inherited) != 0) return;
  // Only where the thread that started this one keeps off some: a set that was asked for does not grow with the cpuset.
  // Refused: it runs where that one may.
  if (!CPU_EQUAL(&inherited, &known.atStart)) (void)!::sched_setaffinity(0, sizeof known.atStart, &known.atStart);
}

AnyCore::~AnyCore() {
  State& known = state();
  const std::lock_guard lock(known.mutex);
  known.anyCore.erase(ownThread());
}

ProgramPlace::ProgramPlace() noexcept {
  const int before = state().programs.fetch_add(1);
  cpu_set_t left;
  if (::sched_getaffinity(0, sizeof left, &left) == 0 && before >= CPU_COUNT(&left)) anyCore_.emplace();
}

ProgramPlace::~ProgramPlace() { state().programs.fetch_sub(1); }

Result<bool> keepOffCores(const std::vector<uint32_t>& cores) noexcept {
  State& known = state();
  if (known.error != 0) return Fault{known.error, "sched_getaffinity"};
  cpu_set_t allowed = known.atStart;
  for (const uint32_t core : cores) {
    if (core < CPU_SETSIZE) CPU_CLR(core, &allowed);
  }
  if (CPU_COUNT(&allowed) == 0) return false;
  // Twice: one that was started by a thread that had not been reached yet shows up in the second list.
  for (int pass = 0; pass < 2; pass++) {
    const auto listed = threads();
    if (!listed) return listed.fault();
    for (const pid_t thread : listed.value()) {
      const std::lock_guard lock(known.mutex);
      if (known.anyCore.contains(thread)) continue;
      if (::sched_setaffinity(thread, sizeof allowed, &allowed) == 0 || errno == ESRCH) continue;
      if (errno == EINVAL) return false;  // the first one told; the cpuset is the same for all
      return lastFault("sched_setaffinity");
    }
  }
  return true;
}

}  // namespace vu
