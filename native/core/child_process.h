// Runs a program to its end: stdin in, bounded output out, killed with its whole process group at its deadline.
//
// Why not Node's own: libuv forks, and a fork copies the page tables of the agent and faults its memory page by page
// afterwards: 2 ms and more of the JS thread per call. posix_spawn suspends only the calling thread, which is one of
// ours.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "result.h"
#include "unique_fd.h"

namespace vu {

struct ChildSpec {
  std::string path;
  // NAME=value; nothing is inherited.
  std::vector<std::string> environment;
  std::string input;
  // stdin is given only after ChildControl::feed(): the program starts up meanwhile, and can do nothing yet.
  bool holdInput = false;
  uint32_t timeoutMs = 0;
  // stdout and stderr together; more ends the child.
  size_t outputLimitBytes = 0;
};

enum class ChildEnd : uint8_t { kExited, kSignalled, kTimeout, kKilled, kFlooded };

struct ChildResult {
  ChildEnd end = ChildEnd::kExited;
  // Exit code or signal number.
  int code = 0;
  std::string output;
  std::string errors;
};

// Lets another thread end a child that runs. Shared by both.
class ChildControl {
 public:
  static Result<std::shared_ptr<ChildControl>> create() noexcept;
  // From any thread, at any time. Idempotent; nothing after finish().
  void kill() noexcept;
  // Gives a held input. Idempotent.
  void feed() noexcept;
  // The child has been reaped: lets the descriptor go, however long somebody still holds this object.
  void finish() noexcept;
  // THREAD: the one that runs the child.
  int wakeFd() const noexcept { return wake_.get(); }
  bool killed() const noexcept { return killed_.load(); }
  bool fed() const noexcept { return fed_.load(); }

 private:
  void raise(std::atomic<bool>& flag) noexcept;

  std::mutex mutex_;
  UniqueFd wake_;
  std::atomic<bool> killed_{false};
  std::atomic<bool> fed_{false};
};

// Told what the child has printed so far, at most once: when that looks like a whole JSON object and the child has not
// been reaped. Freeing the memory of a Go program takes the kernel 0.5 ms, in which its answer can be worked on.
using PrintedListener = std::function<void(const std::string& output)>;

// Blocks the calling thread until the child has been reaped, and with it, where this process is PID 1, those of its
// group that were killed: for a quarter of a second at most. A fault: it could not be started.
Result<ChildResult> runChild(const ChildSpec& spec, ChildControl& control, const PrintedListener& printed) noexcept;

}  // namespace vu
