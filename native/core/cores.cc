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
  // What threads that keep off nothing ask the kernel for.
  cpu_set_t whole{};
  int error = 0;
  std::mutex mutex;
  bool keepsOff = false;
  std::set<pid_t> anyCore;
  std::atomic<int> programs = 0;

  // By a thread that has the cores that the process was started with. Where the cpuset alone decides, the whole is
  // every core there can be, of which the kernel gives what the cpuset has, also when that grows. Where somebody chose
  // (taskset, isolcpus) it is what was chosen.
  State() noexcept {
    cpu_set_t atStart{}, most{};
    if (::sched_getaffinity(0, sizeof atStart, &atStart) != 0) {
      error = errno;
      return;
    }
    for (size_t core = 0; core < CPU_SETSIZE; core++) CPU_SET(core, &whole);
    const bool asked = ::sched_setaffinity(0, sizeof whole, &whole) == 0;
    if (asked && ::sched_getaffinity(0, sizeof most, &most) == 0 && CPU_EQUAL(&most, &atStart)) return;
    whole = atStart;
    if (asked) (void)!::sched_setaffinity(0, sizeof whole, &whole);
  }
};

// Never destroyed: a detached thread may still run while the process exits.
State& state() noexcept {
  static State& only = *new State;
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
  // Refused: it runs where the thread may that started it.
  if (known.keepsOff) (void)!::sched_setaffinity(0, sizeof known.whole, &known.whole);
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
  cpu_set_t left = known.whole;
  for (const uint32_t core : cores) {
    if (core < CPU_SETSIZE) CPU_CLR(core, &left);
  }
  // This thread first: that shows whether anything is left, and what it starts from now on is right.
  if (::sched_setaffinity(0, sizeof left, &left) != 0) {
    if (errno == EINVAL) return false;
    return lastFault("sched_setaffinity");
  }
  {
    const std::lock_guard lock(known.mutex);
    known.keepsOff = !cores.empty();
  }
  // Twice: one that was started by a thread that had not been reached yet shows up in the second list.
  for (int pass = 0; pass < 2; pass++) {
    const auto listed = threads();
    if (!listed) return listed.fault();
    for (const pid_t thread : listed.value()) {
      const std::lock_guard lock(known.mutex);
      if (known.anyCore.contains(thread)) continue;
      if (::sched_setaffinity(thread, sizeof left, &left) != 0 && errno != ESRCH) return lastFault("sched_setaffinity");
    }
  }
  return true;
}

}  // namespace vu
