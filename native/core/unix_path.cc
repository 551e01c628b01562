#include "unix_path.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include <cstdio>
#include <cstring>

namespace vu {
namespace {

Result<UniqueFd> openBeneath(int directory, const char* path, uint64_t flags) noexcept {
  open_how how{};
  how.flags = flags | O_CLOEXEC;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
  const long fd = ::syscall(SYS_openat2, directory, path, &how, sizeof how);
  if (fd < 0) return lastFault("openat2");
  return UniqueFd(static_cast<int>(fd));
}

Result<UniqueFd> openBase(const std::string& directory) noexcept {
  UniqueFd base(::open(directory.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!base) return lastFault("open");
  return base;
}

// An address through /proc: the length of sun_path never matters, and the directory cannot be swapped.
Result<sockaddr_un> addressOf(int fd, const char* name) noexcept {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const int length = name == nullptr ? std::snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d", fd)
                                     : std::snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/%s", fd, name);
  if (length < 0 || static_cast<size_t>(length) >= sizeof address.sun_path) return Fault{ENAMETOOLONG, "sun_path"};
  return address;
}

Result<UniqueFd> makeSocket() noexcept {
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return lastFault("socket");
  return fd;
}

int connectTo(int fd, const sockaddr_un& address) noexcept {
  return ::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address);
}

// What stands at the name: 0 nothing or a dead socket that was removed, else the errno that forbids binding.
int clearTheName(int directory, const char* name) noexcept {
  struct stat status {};
  if (::fstatat(directory, name, &status, AT_SYMLINK_NOFOLLOW) != 0) return errno == ENOENT ? 0 : errno;
  if (!S_ISSOCK(status.st_mode)) return EEXIST;
  Result<UniqueFd> probe = makeSocket();
  if (!probe) return probe.fault().errnum;
  const Result<sockaddr_un> address = addressOf(directory, name);
  if (!address) return address.fault().errnum;
  if (connectTo(probe.value().get(), address.value()) == 0 || errno == EAGAIN) return EADDRINUSE;
  if (errno != ECONNREFUSED) return errno == ENOENT ? 0 : EADDRINUSE;
  return ::unlinkat(directory, name, 0) == 0 || errno == ENOENT ? 0 : errno;
}

}  // namespace

void BoundSocket::unlinkIfOurs() const noexcept {
  struct stat status {};
  if (!directory || ::fstatat(directory.get(), name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) return;
  if (status.st_dev == device && status.st_ino == inode) ::unlinkat(directory.get(), name.c_str(), 0);
}

Result<BoundSocket> listenUnix(const UnixPath& path, mode_t mode, std::optional<gid_t> group, int backlog) noexcept {
  Result<UniqueFd> base = openBase(path.baseDirectory);
  if (!base) return base.fault();
  const size_t slash = path.relativePath.rfind('/');
  const std::string parent = slash == std::string::npos ? "." : path.relativePath.substr(0, slash);
  BoundSocket bound;
  bound.name = slash == std::string::npos ? path.relativePath : path.relativePath.substr(slash + 1);
  if (bound.name.empty() || bound.name == "." || bound.name == "..") return Fault{EINVAL, "bind"};
  Result<UniqueFd> directory = openBeneath(base.value().get(), parent.c_str(), O_PATH | O_DIRECTORY);
  if (!directory) return directory.fault();
  bound.directory = std::move(directory).value();
  if (const int refused = clearTheName(bound.directory.get(), bound.name.c_str()); refused != 0) return Fault{refused, "bind"};

  Result<UniqueFd> made = makeSocket();
  if (!made) return made.fault();
  bound.fd = std::move(made).value();
  const Result<sockaddr_un> address = addressOf(bound.directory.get(), bound.name.c_str());
  if (!address) return address.fault();
  const auto* raw = reinterpret_cast<const sockaddr*>(&address.value());
  if (::bind(bound.fd.get(), raw, sizeof address.value()) != 0) return lastFault("bind");
  struct stat status {};
  const auto failed = [&](const char* operation) -> Fault {
    const Fault fault = lastFault(operation);
    ::unlinkat(bound.directory.get(), bound.name.c_str(), 0);
    return fault;
  };
  // Until listen() nobody can connect, so the permissions are right from the first moment that matters.
  if (::fstatat(bound.directory.get(), bound.name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) return failed("fstatat");
  if (::fchmodat(bound.directory.get(), bound.name.c_str(), mode, 0) != 0) return failed("fchmodat");
  if (group && ::fchownat(bound.directory.get(), bound.name.c_str(), static_cast<uid_t>(-1), *group, AT_SYMLINK_NOFOLLOW) != 0) {
    return failed("fchownat");
  }
  if (::listen(bound.fd.get(), backlog) != 0) return failed("listen");
  bound.device = status.st_dev;
  bound.inode = status.st_ino;
  return bound;
}

Result<UniqueFd> connectUnix(const UnixPath& path) noexcept {
  Result<UniqueFd> base = openBase(path.baseDirectory);
  if (!base) return base.fault();
  Result<UniqueFd> file = openBeneath(base.value().get(), path.relativePath.c_str(), O_PATH | O_NOFOLLOW);
  if (!file) return file.fault();
  struct stat status {};
  if (::fstat(file.value().get(), &status) != 0) return lastFault("fstat");
  if (!S_ISSOCK(status.st_mode)) return Fault{S_ISLNK(status.st_mode) ? ELOOP : ENOTSOCK, "connect"};
  Result<UniqueFd> made = makeSocket();
  if (!made) return made.fault();
  const Result<sockaddr_un> address = addressOf(file.value().get(), nullptr);
  if (!address) return address.fault();
  if (connectTo(made.value().get(), address.value()) != 0) return lastFault("connect");
  return made;
}

Result<PeerCredentials> peerOf(int fd) noexcept {
  ucred credentials{};
  socklen_t length = sizeof credentials;
  if (::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &length) != 0) return lastFault("getsockopt SO_PEERCRED");
  return PeerCredentials{credentials.pid, credentials.uid, credentials.gid};
}

}  // namespace vu
