#include "checksum.h"

#include <cstring>

namespace vu {
namespace {

uint64_t load64(const uint8_t* from) noexcept {
  uint64_t value;
  std::memcpy(&value, from, sizeof value);
  return value;
}
constexpr uint64_t halves(uint64_t value) noexcept { return (value & 0xffffffff) + (value >> 32); }

}  // namespace

uint64_t checksumAdd(uint64_t sum, const uint8_t* data, size_t bytes) noexcept {
  // Independent sums keep several additions in flight; 32-bit halves in 64 bits cannot overflow below 16 GiB.
  uint64_t a = 0;
  uint64_t b = 0;
  uint64_t c = 0;
  uint64_t d = 0;
  for (; bytes >= 32; bytes -= 32, data += 32) {
    a += halves(load64(data));
    b += halves(load64(data + 8));
    c += halves(load64(data + 16));
    d += halves(load64(data + 24));
  }
  for (; bytes >= 8; bytes -= 8, data += 8) a += halves(load64(data));
  uint64_t rest = 0;
  std::memcpy(&rest, data, bytes);
  return halves(sum) + halves(a + b) + halves(c + d) + halves(rest);
}

uint64_t pseudoHeaderSum(const uint8_t* addresses, bool ipv6, uint8_t protocol, uint32_t l4Bytes) noexcept {
  const uint8_t tail[8] = {static_cast<uint8_t>(l4Bytes >> 24),
                           static_cast<uint8_t>(l4Bytes >> 16),
                           static_cast<uint8_t>(l4Bytes >> 8),
                           static_cast<uint8_t>(l4Bytes),
                           0,
                           0,
                           0,
                           protocol};
  return checksumAdd(checksumAdd(0, addresses, ipv6 ? 32 : 8), tail, sizeof tail);
}

bool completeChecksum(uint8_t* frame, size_t bytes, uint16_t start, uint16_t offset) noexcept {
  const size_t field = size_t{start} + offset;
  if (field + 2 > bytes) return false;
  auto sum = static_cast<uint16_t>(~checksumFold(checksumAdd(0, frame + start, bytes - start)));
  // UDP: zero would mean "no checksum". For TCP the two are the same number.
  if (sum == 0) sum = 0xffff;
  std::memcpy(frame + field, &sum, sizeof sum);
  return true;
}

}  // namespace vu
