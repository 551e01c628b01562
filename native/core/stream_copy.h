// Copies past the caches, for memory that another core reads next.
//
// Writing to lines that the switch's core has read takes them from its cache one by one: 64 KiB cost 10 us where both
// cores share an L3 and 40 us where they do not, and 2 us past the caches in either case (Zen 4). The switch then reads
// from memory, in the order that its prefetcher expects.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

namespace vu {

// One write-combining buffer.
inline constexpr size_t kStreamUnit = 64;

constexpr size_t streamRounded(size_t bytes) noexcept { return (bytes + kStreamUnit - 1) & ~(kStreamUnit - 1); }

// Copies streamRounded(bytes) bytes; both places are aligned to kStreamUnit and have room for as many. What is copied
// belongs to the other side only after streamFence().
inline void streamCopy(uint8_t* to, const uint8_t* from, size_t bytes) noexcept {
  const size_t rounded = streamRounded(bytes);
#ifdef __SSE2__
  for (size_t at = 0; at < rounded; at += sizeof(__m128i)) {
    _mm_stream_si128(reinterpret_cast<__m128i*>(to + at), _mm_load_si128(reinterpret_cast<const __m128i*>(from + at)));
  }
#else
  std::memcpy(to, from, rounded);
#endif
}

// Zeros from the end of what streamCopy() shall copy to the end of its last unit: nobody gets what lay there.
inline void fillStreamUnit(uint8_t* from, size_t bytes) noexcept {
  std::memset(from + bytes, 0, streamRounded(bytes) - bytes);
}

// Before the store that hands the copy over: a release store does not wait for it.
inline void streamFence() noexcept {
#ifdef __SSE2__
  _mm_sfence();
#endif
}

}  // namespace vu
