// Memory that others can take away: the access of ours that finds nothing there is SIGBUS, which would end the process.
//
// A handler puts zeros of our own in the place of the page and remembers it; the access goes on. Everything that a
// backend can write is checked, so zeros do no more harm than a backend that writes them.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace vu {

class MemoryGuard {
 public:
  MemoryGuard() noexcept = default;
  // Of [data, data + bytes), which is mapped for longer. `lost` is set when a page was replaced.
  MemoryGuard(uint8_t* data, size_t bytes, size_t pageBytes, std::atomic<bool>* lost) noexcept;
  MemoryGuard(MemoryGuard&& other) noexcept;
  MemoryGuard& operator=(MemoryGuard&& other) noexcept;
  MemoryGuard(const MemoryGuard&) = delete;
  MemoryGuard& operator=(const MemoryGuard&) = delete;
  ~MemoryGuard() { reset(); }

  void reset() noexcept;

 private:
  uint8_t* data_ = nullptr;
};

}  // namespace vu
