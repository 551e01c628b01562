#include "checksum.h"

#include <cstring>

namespace vu {
namespace {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "checksumWord and VnetHdr take the host for little-endian");

template <typename T>
T load(const uint8_t* from) noexcept {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}
constexpr uint64_t halves(uint64_t value) noexcept { return (value & 0xffffffff) + (value >> 32); }

// Two 64-bit lanes: one register of the baseline instruction set of x86-64 and arm64.
using Lanes = uint64_t __attribute__((vector_size(16)));

// `blocks` of 64 bytes. Lanes wrap; their upper halves are summed aside, from which both halves follow. Written out
// because -O2 vectorises no such loop: 64 KiB in 0.8 us, against 2 us of scalar additions.
uint64_t addBlocks(const uint8_t* data, size_t blocks) noexcept {
  Lanes whole[4] = {};
  Lanes upper[4] = {};
  for (; blocks > 0; --blocks, data += 64) {
    const auto a = load<Lanes>(data);
    const auto b = load<Lanes>(data + 16);
    const auto c = load<Lanes>(data + 32);
    const auto d = load<Lanes>(data + 48);
    whole[0] += a;
    upper[0] += a >> 32;
    whole[1] += b;
    upper[1] += b >> 32;
    whole[2] += c;
    upper[2] += c >> 32;
    whole[3] += d;
    upper[3] += d >> 32;
  }
  const Lanes high = (upper[0] + upper[1]) + (upper[2] + upper[3]);
  const Lanes low = (whole[0] + whole[1]) + (whole[2] + whole[3]) - (high << 32);
  return low[0] + low[1] + high[0] + high[1];
}

}  // namespace

uint64_t checksumAdd(uint64_t sum, const uint8_t* data, size_t bytes) noexcept {
  // 32-bit halves in 64 bits cannot overflow below 16 GiB.
  sum = halves(sum);
  if (const size_t blocks = bytes / 64; blocks != 0) {
    sum += addBlocks(data, blocks);
    data += blocks * 64;
    bytes %= 64;
  }
  for (; bytes >= 8; bytes -= 8, data += 8) sum += halves(load<uint64_t>(data));
  if ((bytes & 4) != 0) {
    sum += load<uint32_t>(data);
    data += 4;
  }
  if ((bytes & 2) != 0) {
    sum += load<uint16_t>(data);
    data += 2;
  }
  return (bytes & 1) != 0 ? sum + *data : sum;
}

uint64_t checksumAddSpans(uint64_t sum, const iovec* spans, uint32_t count, size_t skip) noexcept {
  bool odd = false;
  for (uint32_t i = 0; i < count; ++i) {
    if (skip >= spans[i].iov_len) {
      skip -= spans[i].iov_len;
      continue;
    }
    const auto* data = static_cast<const uint8_t*>(spans[i].iov_base) + skip;
    const size_t bytes = spans[i].iov_len - skip;
    skip = 0;
    // RFC 1071, 2 (B): a part at an odd distance has its sum's bytes swapped.
    sum = odd ? halves(sum) + __builtin_bswap16(checksumFold(checksumAdd(0, data, bytes)))
              : checksumAdd(sum, data, bytes);
    odd ^= (bytes & 1) != 0;
  }
  return sum;
}

uint64_t pseudoHeaderSum(const uint8_t* addresses, bool ipv6, uint8_t protocol, uint32_t l4Bytes) noexcept {
  return checksumAdd(0, addresses, ipv6 ? 32 : 8) + checksumWord(static_cast<uint16_t>(l4Bytes >> 16)) +
         checksumWord(static_cast<uint16_t>(l4Bytes)) + checksumWord(protocol);
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
