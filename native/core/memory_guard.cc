#include "memory_guard.h"

#include <signal.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <mutex>
#include <utility>
#include <vector>

namespace vu {
namespace {

struct Range {
  uint8_t* data;
  size_t bytes;
  size_t pageBytes;
  std::atomic<bool>* lost;
};

// The handler takes the lock too. It may: the thread that faults is touching guarded memory, so it is in no function of
// this file.
std::mutex mutex;
std::vector<Range> ranges;
struct sigaction former;

bool replacePage(const void* address) noexcept {
  const auto* const at = static_cast<const uint8_t*>(address);
  const std::lock_guard lock(mutex);
  for (const Range& range : ranges) {
    if (at < range.data || at >= range.data + range.bytes) continue;
    const size_t offset = static_cast<size_t>(at - range.data) / range.pageBytes * range.pageBytes;
    constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE;
    if (::mmap(range.data + offset, range.pageBytes, PROT_READ | PROT_WRITE, kFlags, -1, 0) == MAP_FAILED) return false;
    range.lost->store(true, std::memory_order_relaxed);
    return true;
  }
  return false;
}

void passOn(int signal, siginfo_t* info, void* context) noexcept {
  if ((former.sa_flags & SA_SIGINFO) != 0) {
    former.sa_sigaction(signal, info, context);
  } else if (former.sa_handler != SIG_DFL && former.sa_handler != SIG_IGN) {
    former.sa_handler(signal);
  } else {
    ::sigaction(signal, &former, nullptr);
    ::raise(signal);
  }
}

void onBusError(int signal, siginfo_t* info, void* context) {
  const int before = errno;
  // Of an access just made: others come at any moment.
  const bool access = info->si_code == BUS_ADRERR || info->si_code == BUS_MCEERR_AR;
  if (!access || !replacePage(info->si_addr)) passOn(signal, info, context);
  errno = before;
}

void installHandler() noexcept {
  struct sigaction action {};
  action.sa_sigaction = onBusError;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  ::sigaction(SIGBUS, &action, &former);
}

}  // namespace

MemoryGuard::MemoryGuard(uint8_t* data, size_t bytes, size_t pageBytes, std::atomic<bool>* lost) noexcept
    : data_(data) {
  static std::once_flag installed;
  std::call_once(installed, installHandler);
  const std::lock_guard lock(mutex);
  ranges.push_back(Range{data, bytes, pageBytes, lost});
}

MemoryGuard::MemoryGuard(MemoryGuard&& other) noexcept : data_(std::exchange(other.data_, nullptr)) {}

MemoryGuard& MemoryGuard::operator=(MemoryGuard&& other) noexcept {
  if (this != &other) {
    reset();
    data_ = std::exchange(other.data_, nullptr);
  }
  return *this;
}

void MemoryGuard::reset() noexcept {
  if (data_ == nullptr) return;
  const std::lock_guard lock(mutex);
  std::erase_if(ranges, [this](const Range& range) { return range.data == data_; });
  data_ = nullptr;
}

}  // namespace vu
