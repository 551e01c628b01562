#include "write_batch.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace vu {

WriteBatch::WriteBatch(bool together) noexcept {
  for (uint32_t i = 0; i < kMostWrites; ++i) pointers_[i] = &requests_[i];
  if (together && ::syscall(SYS_io_setup, kMostWrites, &context_) != 0) context_ = 0;
}

WriteBatch::~WriteBatch() {
  if (context_ != 0) (void)::syscall(SYS_io_destroy, context_);
}

void WriteBatch::add(int fd, const iovec* parts, uint32_t count, bool copyFirst) noexcept {
  iovec* const own = parts_.data() + partCount_;
  std::copy_n(parts, count, own);
  partCount_ += count;
  if (copyFirst) {
    std::memcpy(copies_[count_].data(), own->iov_base, own->iov_len);
    own->iov_base = copies_[count_].data();
  }
  spans_[count_] = {own, count};
  iocb& request = requests_[count_];
  request = iocb{};
  request.aio_data = count_;
  request.aio_fildes = static_cast<uint32_t>(fd);
  // A frame in one piece needs no vector, which the kernel would copy and check.
  request.aio_lio_opcode = count == 1 ? IOCB_CMD_PWRITE : IOCB_CMD_PWRITEV;
  request.aio_buf = count == 1 ? reinterpret_cast<uint64_t>(own->iov_base) : reinterpret_cast<uint64_t>(own);
  request.aio_nbytes = count == 1 ? own->iov_len : count;
  ++count_;
}

std::span<const int64_t> WriteBatch::submit() noexcept {
  const uint32_t count = count_;
  writeSingly(count > 1 && together() ? writeTogether() : 0);
  count_ = 0;
  partCount_ = 0;
  return {results_.data(), count};
}

// Returns how many of them the kernel took: the first ones.
uint32_t WriteBatch::writeTogether() noexcept {
  const long submitted = ::syscall(SYS_io_submit, context_, long{count_}, pointers_.data());
  const uint32_t taken = submitted < 0 ? 0 : static_cast<uint32_t>(submitted);
  std::fill_n(results_.begin(), taken, -EIO);
  for (uint32_t done = 0; done < taken;) {
    const long left = long{taken} - done;
    const long got = ::syscall(SYS_io_getevents, context_, left, left, events_.data(), nullptr);
    if (got < 0 && errno != EINTR) break;
    for (long i = 0; i < got; ++i) results_[events_[static_cast<size_t>(i)].data] = events_[static_cast<size_t>(i)].res;
    if (got > 0) done += static_cast<uint32_t>(got);
  }
  return taken;
}

// What is wrong with a request that the kernel did not take is said by the write itself.
void WriteBatch::writeSingly(uint32_t from) noexcept {
  for (uint32_t i = from; i < count_; ++i) {
    const std::span<const iovec> parts = spans_[i];
    const int fd = static_cast<int>(requests_[i].aio_fildes);
    const ssize_t written = parts.size() == 1 ? ::write(fd, parts[0].iov_base, parts[0].iov_len)
                                              : ::writev(fd, parts.data(), static_cast<int>(parts.size()));
    results_[i] = written < 0 ? -errno : written;
  }
}

}  // namespace vu
