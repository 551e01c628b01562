#include "child_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include <algorithm>
#include <array>

namespace vu {
namespace {

// What the child left running may hold the pipes open for ever: they are let go this long after its end.
constexpr int64_t kDrainMs = 250;
// Without a pidfd (no descriptor was left for it) nothing tells of the child's end: it is asked for this often.
constexpr int64_t kUnwatchedMs = 50;
// Between two looks at children that are dying.
constexpr int kDyingMs = 2;
constexpr size_t kReadBytes = 16 << 10;

int64_t nowMs() noexcept {
  timespec time{};
  ::clock_gettime(CLOCK_MONOTONIC, &time);
  return int64_t{time.tv_sec} * 1000 + time.tv_nsec / 1'000'000;
}

struct Pipe {
  UniqueFd read, write;
  static Result<Pipe> open() noexcept {
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) return lastFault("pipe2");
    return Pipe{UniqueFd(ends[0]), UniqueFd(ends[1])};
  }
};

void makeNonBlocking(const UniqueFd& fd) noexcept { ::fcntl(fd.get(), F_SETFL, O_NONBLOCK); }

class Attributes {
 public:
  Attributes() noexcept {
    ::posix_spawnattr_init(&raw);
    // A group of its own, so that the children of a shell script end with it; no signal handling of ours.
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    ::posix_spawnattr_setsigmask(&raw, &none);
    ::posix_spawnattr_setsigdefault(&raw, &all);
    ::posix_spawnattr_setpgroup(&raw, 0);
    ::posix_spawnattr_setflags(&raw, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
  }
  ~Attributes() { ::posix_spawnattr_destroy(&raw); }
  posix_spawnattr_t raw{};
};

class FileActions {
 public:
  FileActions(int in, int out, int error) noexcept {
    ::posix_spawn_file_actions_init(&raw);
    ::posix_spawn_file_actions_adddup2(&raw, in, 0);
    ::posix_spawn_file_actions_adddup2(&raw, out, 1);
    ::posix_spawn_file_actions_adddup2(&raw, error, 2);
    ::posix_spawn_file_actions_addchdir_np(&raw, "/");
  }
  ~FileActions() { ::posix_spawn_file_actions_destroy(&raw); }
  posix_spawn_file_actions_t raw{};
};

// Takes what is there, until there is more than `limit`: somebody may write faster than we read. false: the end of the
// stream.
bool drain(const UniqueFd& from, std::string& into, size_t limit) noexcept {
  std::array<char, kReadBytes> buffer;
  for (;;) {
    const ssize_t count = ::read(from.get(), buffer.data(), buffer.size());
    if (count > 0) {
      into.append(buffer.data(), static_cast<size_t>(count));
      if (static_cast<size_t>(count) < buffer.size() || into.size() > limit) return true;
    } else if (count == 0) {
      return false;
    } else if (errno != EINTR) {
      return errno == EAGAIN;
    }
  }
}

// As PID 1 of a container we are given the orphans of every program: those in its group are reaped here, as nobody else
// does it. libuv's children have groups of their own, or ours. With a deadline (0: none), those that have been killed
// and are still dying are waited for.
void reapOrphans(pid_t group, int64_t untilMs) noexcept {
  for (;;) {
    const pid_t reaped = ::waitpid(-group, nullptr, WNOHANG);
    if (reaped > 0 || (reaped < 0 && errno == EINTR)) continue;
    if (reaped < 0 || nowMs() >= untilMs) return;
    ::poll(nullptr, 0, kDyingMs);
  }
}

// Whoever reads it finds out; a program that prints piece by piece is just not answered for early.
bool looksWhole(const std::string& output) noexcept {
  const size_t last = output.find_last_not_of(" \t\r\n");
  return last != std::string::npos && output[last] == '}';
}

Result<ChildResult> superviseChild(const ChildSpec& spec, const ChildControl& control,
                                   const PrintedListener& printed) noexcept {
  Result<Pipe> input = Pipe::open();
  if (!input) return input.fault();
  Result<Pipe> output = Pipe::open();
  if (!output) return output.fault();
  Result<Pipe> errors = Pipe::open();
  if (!errors) return errors.fault();
  const int64_t deadlineMs = nowMs() + spec.timeoutMs;

  std::vector<char*> environment;
  for (const std::string& entry : spec.environment) environment.push_back(const_cast<char*>(entry.c_str()));
  environment.push_back(nullptr);
  std::array<char*, 2> arguments{const_cast<char*>(spec.path.c_str()), nullptr};
  pid_t pid = -1;
  {
    const Attributes attributes;
    const FileActions actions(input.value().read.get(), output.value().write.get(), errors.value().write.get());
    const int failed =
        ::posix_spawn(&pid, spec.path.c_str(), &actions.raw, &attributes.raw, arguments.data(), environment.data());
    if (failed != 0) return Fault{failed, "posix_spawn"};
  }
  UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  UniqueFd in = std::move(input.value().write), out = std::move(output.value().read),
           err = std::move(errors.value().read);
  input.value().read.reset();
  output.value().write.reset();
  errors.value().write.reset();
  for (const UniqueFd* fd : {&in, &out, &err}) makeNonBlocking(*fd);

  ChildResult result;
  size_t written = 0;
  bool ended = false;
  bool judged = false;
  bool announced = false;
  int64_t drainUntilMs = 0;
  const auto end = [&](ChildEnd why) {
    if (!judged) result.end = why;
    judged = true;
    ::kill(-pid, SIGKILL);
    out.reset();
    err.reset();
  };
  // Of both together, counting what the other one has.
  const auto room = [&](const std::string& other) {
    return other.size() < spec.outputLimitBytes ? spec.outputLimitBytes - other.size() : 0;
  };
  const auto flooded = [&] { return result.output.size() + result.errors.size() > spec.outputLimitBytes; };
  bool held = spec.holdInput;
  if (spec.input.empty() && !held) in.reset();
  while (!ended || ((out || err) && !judged)) {
    std::array<pollfd, 5> watched{{{ended ? -1 : process.get(), POLLIN, 0},
                                   {judged ? -1 : control.wakeFd(), POLLIN, 0},
                                   {held ? -1 : in.get(), POLLOUT, 0},
                                   {out.get(), POLLIN, 0},
                                   {err.get(), POLLIN, 0}}};
    const int64_t untilMs = ended ? drainUntilMs : judged ? deadlineMs + kDrainMs : deadlineMs;
    const int64_t leftMs = untilMs - nowMs();
    if (leftMs <= 0 && ended) break;
    if (leftMs <= 0 && !judged) end(ChildEnd::kTimeout);
    const int64_t longestMs = leftMs < 0 ? 1000 : leftMs;
    const int64_t waitMs = process || ended ? longestMs : std::min(longestMs, kUnwatchedMs);
    if (::poll(watched.data(), watched.size(), static_cast<int>(waitMs)) < 0 && errno != EINTR) break;
    if (control.killed() && !judged) end(ChildEnd::kKilled);
    if (watched[1].revents != 0) {
      uint64_t count = 0;
      [[maybe_unused]] const ssize_t got = ::read(control.wakeFd(), &count, sizeof count);
    }
    if (held && control.fed()) {
      held = false;
      if (spec.input.empty()) in.reset();
      continue;
    }
    if (in && watched[2].revents != 0) {
      const ssize_t count = ::write(in.get(), spec.input.data() + written, spec.input.size() - written);
      if (count > 0) written += static_cast<size_t>(count);
      // A program may end before it has read everything (EPIPE).
      if (written == spec.input.size() || (count < 0 && errno != EAGAIN && errno != EINTR)) in.reset();
    }
    if (out && watched[3].revents != 0 && !drain(out, result.output, room(result.errors))) out.reset();
    if (err && watched[4].revents != 0 && !flooded() && !drain(err, result.errors, room(result.output))) err.reset();
    if (!judged && flooded()) end(ChildEnd::kFlooded);
    if (!announced && !ended && !judged && looksWhole(result.output)) {
      announced = true;
      printed(result.output);
    }
    if (!ended && (watched[0].revents != 0 || !process)) {
      int status = 0;
      if (::waitpid(pid, &status, WNOHANG) != pid) continue;
      ended = true;
      drainUntilMs = nowMs() + kDrainMs;
      if (!judged) {
        result.end = WIFEXITED(status) ? ChildEnd::kExited : ChildEnd::kSignalled;
        result.code = WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status);
      }
    }
  }
  const bool killed = judged || !ended;
  if (!ended) {
    ::kill(-pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
  }
  reapOrphans(pid, killed ? nowMs() + kDrainMs : 0);
  return result;
}

}  // namespace

Result<std::shared_ptr<ChildControl>> ChildControl::create() noexcept {
  auto control = std::make_shared<ChildControl>();
  control->wake_ = UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!control->wake_) return lastFault("eventfd");
  return control;
}

void ChildControl::raise(std::atomic<bool>& flag) noexcept {
  const std::lock_guard lock(mutex_);
  if (!wake_) return;
  flag.store(true);
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = ::write(wake_.get(), &one, sizeof one);
}

void ChildControl::kill() noexcept { raise(killed_); }

void ChildControl::feed() noexcept { raise(fed_); }

void ChildControl::finish() noexcept {
  const std::lock_guard lock(mutex_);
  wake_.reset();
}

Result<ChildResult> runChild(const ChildSpec& spec, ChildControl& control, const PrintedListener& printed) noexcept {
  Result<ChildResult> result = superviseChild(spec, control, printed);
  control.finish();
  return result;
}

}  // namespace vu
