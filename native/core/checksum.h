// The Internet checksum (RFC 1071), in memory order: a folded sum is stored as it is, without byte swapping.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>

namespace vu {

// Adds `bytes` bytes to a running sum. Parts of one sum must start at even distances from its start.
uint64_t checksumAdd(uint64_t sum, const uint8_t* data, size_t bytes) noexcept;

// Adds spans that follow one another, each of any length, without their first `skip` bytes. The first byte added is at
// an even distance from the start of the sum.
uint64_t checksumAddSpans(uint64_t sum, const iovec* spans, uint32_t count, size_t skip) noexcept;

// What a 16-bit big-endian field of value `host` adds to a sum.
constexpr uint64_t checksumWord(uint16_t host) noexcept { return __builtin_bswap16(host); }

constexpr uint16_t checksumFold(uint64_t sum) noexcept {
  sum = (sum & 0xffffffff) + (sum >> 32);
  sum = (sum & 0xffffffff) + (sum >> 32);
  sum = (sum & 0xffff) + (sum >> 16);
  sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<uint16_t>(sum);
}

// Sum of the TCP or UDP pseudo-header. `addresses`: source and destination in one piece, 8 or 32 bytes.
uint64_t pseudoHeaderSum(const uint8_t* addresses, bool ipv6, uint8_t protocol, uint32_t l4Bytes) noexcept;

// Completes what VIRTIO_NET_HDR_F_NEEDS_CSUM leaves open: sums frame[start, bytes) into the field at start + offset.
// false: the field does not lie inside the frame; nothing is written.
bool completeChecksum(uint8_t* frame, size_t bytes, uint16_t start, uint16_t offset) noexcept;

}  // namespace vu
