#include "tap_offload.h"

#include <linux/if_tun.h>
#include <sys/ioctl.h>

#include <atomic>
#include <cerrno>

namespace vu {
namespace {

// linux/if_tun.h; Debian 12's header is of 6.1.
constexpr unsigned kUso4 = 0x20;
constexpr unsigned kUso6 = 0x40;

enum class DatagramRuns : uint8_t { kUnknown, kTaken, kRefused };
std::atomic<DatagramRuns> datagramRuns{DatagramRuns::kUnknown};

bool set(int tap, unsigned mask) noexcept { return ::ioctl(tap, TUNSETOFFLOAD, static_cast<unsigned long>(mask)) == 0; }

// Until the mask that is wanted is back, the pod might hand over a frame of several datagrams, which is dropped and
// counted: once in the life of an agent, and only from a pod that sends such in that microsecond.
void findOut(int tap) noexcept {
  if (set(tap, TUN_F_CSUM | kUso4 | kUso6)) {
    datagramRuns.store(DatagramRuns::kTaken, std::memory_order_relaxed);
  } else if (errno == EINVAL) {
    datagramRuns.store(DatagramRuns::kRefused, std::memory_order_relaxed);
  }
}

}  // namespace

Result<void> setTapOffload(int tap, unsigned mask) noexcept {
  if (!set(tap, mask)) return lastFault("ioctl TUNSETOFFLOAD");
  if (datagramRuns.load(std::memory_order_relaxed) != DatagramRuns::kUnknown) return {};
  findOut(tap);
  if (!set(tap, mask)) return lastFault("ioctl TUNSETOFFLOAD");
  return {};
}

bool tapTakesDatagramRuns() noexcept { return datagramRuns.load(std::memory_order_relaxed) != DatagramRuns::kRefused; }

}  // namespace vu
