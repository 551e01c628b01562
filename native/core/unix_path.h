// Unix sockets below a trusted directory, never through a symbolic link, whatever a pod or a switch puts there.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>

#include "result.h"
#include "unique_fd.h"

namespace vu {

struct UnixPath {
  std::string baseDirectory;
  // Below it; no component may be a symbolic link.
  std::string relativePath;
};

// A bound and listening socket, and what is needed to unlink it again if it is still the same file.
struct BoundSocket {
  UniqueFd fd;
  UniqueFd directory;
  std::string name;
  dev_t device = 0;
  ino_t inode = 0;

  void unlinkIfOurs() const noexcept;
};

// A dead socket file (connection refused) is replaced; EADDRINUSE when somebody answers, ENOTSOCK for a file of another
// kind, ELOOP for a link, EXDEV for a path that leaves its directory, ENAMETOOLONG for a last component of more than
// about 85 bytes.
Result<BoundSocket> listenUnix(const UnixPath& path, mode_t mode, std::optional<gid_t> group, int backlog) noexcept;
// ENOTSOCK, ELOOP, EXDEV as above; EAGAIN when the backlog is full.
Result<UniqueFd> connectUnix(const UnixPath& path) noexcept;

struct PeerCredentials {
  pid_t pid = 0;
  uid_t uid = 0;
  gid_t gid = 0;
};
Result<PeerCredentials> peerOf(int fd) noexcept;

}  // namespace vu
