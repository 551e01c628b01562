// Writes that go to the kernel in one call, by Linux AIO: io_submit(2) of files that take or refuse a write at once, as
// a TAP does, returns with all of them done.
//
// Why: a pod that is woken by one frame takes the core from the pump as soon as that write returns, and so for each
// frame. In one call its frames reach it together. One TCP stream on a shared core: 1.5 times as much with MTU-sized
// frames, 1.15 with large ones. Scheduling classes and nice values could do no more, and count within the agent's
// cgroup alone.
#pragma once

#include <linux/aio_abi.h>
#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace vu {

class WriteBatch {
 public:
  static constexpr uint32_t kMostWrites = 64;
  // Of one write.
  static constexpr uint32_t kMostParts = 129;
  static constexpr uint32_t kMostCopiedBytes = 192;

  // Where the kernel gives no AIO context (fs.aio-max-nr, a seccomp profile, no CONFIG_AIO) writes go one by one.
  explicit WriteBatch(bool together = true) noexcept;
  ~WriteBatch();
  WriteBatch(const WriteBatch&) = delete;
  WriteBatch& operator=(const WriteBatch&) = delete;

  bool together() const noexcept { return context_ != 0; }
  uint32_t size() const noexcept { return count_; }
  // For one more write, however many parts it has.
  bool hasRoom() const noexcept { return count_ < kMostWrites && partCount_ + kMostParts <= parts_.size(); }

  // Needs room. `parts` are borrowed for the call, what they point at until submit(); but with `copyFirst` the first
  // part, of at most kMostCopiedBytes, for the call only.
  void add(int fd, const iovec* parts, uint32_t count, bool copyFirst) noexcept;
  // Writes all, in order, and empties the batch. What write(2) gives for each, or -errno; valid until the next add().
  std::span<const int64_t> submit() noexcept;

 private:
  void writeSingly(uint32_t from) noexcept;
  uint32_t writeTogether() noexcept;

  aio_context_t context_ = 0;
  uint32_t count_ = 0;
  uint32_t partCount_ = 0;
  std::array<std::span<const iovec>, kMostWrites> spans_;
  std::array<iocb, kMostWrites> requests_{};
  std::array<iocb*, kMostWrites> pointers_{};
  std::array<io_event, kMostWrites> events_{};
  std::array<int64_t, kMostWrites> results_{};
  std::array<std::array<uint8_t, kMostCopiedBytes>, kMostWrites> copies_{};
  std::array<iovec, size_t{512} + kMostParts> parts_{};
};

}  // namespace vu
