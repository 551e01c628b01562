// Advisory whole-file locks (flock(2)): the agent's own, and the delete queue's.
#pragma once

#include <fcntl.h>
#include <sys/file.h>

#include <optional>
#include <string>

#include "result.h"
#include "unique_fd.h"

namespace vu {

// Creates the file (0600) when it is missing. An empty optional: somebody else holds the lock.
inline Result<std::optional<UniqueFd>> tryLockFile(const std::string& path, bool shared) noexcept {
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd) return lastFault("open");
  if (::flock(fd.get(), (shared ? LOCK_SH : LOCK_EX) | LOCK_NB) == 0) return std::optional<UniqueFd>(std::move(fd));
  if (errno == EWOULDBLOCK) return std::optional<UniqueFd>();
  return lastFault("flock");
}

}  // namespace vu
