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
  const int length = name == nullptr
                         ? std::snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d", fd)
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

// A socket file, held by O_PATH so that it cannot be exchanged for another between check and use.
Result<UniqueFd> openSocketFile(int directory, const char* path, struct stat* status) noexcept {
  Result<UniqueFd> file = openBeneath(directory, path, O_PATH | O_NOFOLLOW);
  if (!file) return file.fault();
  if (::fstat(file.value().get(), status) != 0) return lastFault("fstat");
  // O_PATH | O_NOFOLLOW opens a link itself, whatever RESOLVE_NO_SYMLINKS says (openat2(2)).
  if (!S_ISSOCK(status->st_mode)) return Fault{S_ISLNK(status->st_mode) ? ELOOP : ENOTSOCK, "openat2"};
  return file;
}

bool isFile(int directory, const char* name, const struct stat& known) noexcept {
  struct stat now {};
  return ::fstatat(directory, name, &now, AT_SYMLINK_NOFOLLOW) == 0 && now.st_dev == known.st_dev &&
         now.st_ino == known.st_ino;
}

// Removes a dead socket. A fault says what stands at the name and forbids binding.
Result<void> clearTheName(int directory, const char* name) noexcept {
  struct stat status {};
  Result<UniqueFd> file = openSocketFile(directory, name, &status);
  if (!file) return file.fault().errnum == ENOENT ? Result<void>() : Result<void>(file.fault());
  Result<UniqueFd> probe = makeSocket();
  if (!probe) return probe.fault();
  const Result<sockaddr_un> address = addressOf(file.value().get(), nullptr);
  if (!address) return address.fault();
  // Somebody answers, is too busy to (EAGAIN), or speaks another type of socket (EPROTOTYPE).
  if (connectTo(probe.value().get(), address.value()) == 0 || errno != ECONNREFUSED) return Fault{EADDRINUSE, "bind"};
  if (!isFile(directory, name, status)) return Fault{EADDRINUSE, "bind"};
  if (::unlinkat(directory, name, 0) != 0 && errno != ENOENT) return lastFault("unlinkat");
  return {};
}

// Mode and group through the file that is held: a link put at its name meanwhile is not followed.
Result<void> setPermissions(int file, mode_t mode, std::optional<gid_t> group) noexcept {
  char path[32];
  std::snprintf(path, sizeof path, "/proc/self/fd/%d", file);
  if (group && ::fchownat(file, "", static_cast<uid_t>(-1), *group, AT_EMPTY_PATH) != 0) return lastFault("fchownat");
  if (::chmod(path, mode) != 0) return lastFault("chmod");
  return {};
}

}  // namespace

void BoundSocket::unlinkIfOurs() const noexcept {
  struct stat ours {};
  ours.st_dev = device;
  ours.st_ino = inode;
  if (directory && isFile(directory.get(), name.c_str(), ours)) ::unlinkat(directory.get(), name.c_str(), 0);
}

Result<BoundSocket> listenUnix(const UnixPath& path, mode_t mode, std::optional<gid_t> group, int backlog) noexcept {
  Result<UniqueFd> base = openBase(path.baseDirectory);
  if (!base) return base.fault();
  const size_t slash = path.relativePath.rfind('/');
  const std::string parent = slash == std::string::npos ? "." : path.relativePath.substr(0, slash + 1);
  BoundSocket bound;
  bound.name = slash == std::string::npos ? path.relativePath : path.relativePath.substr(slash + 1);
  if (bound.name.empty() || bound.name == "." || bound.name == "..") return Fault{EINVAL, "bind"};
  Result<UniqueFd> directory = openBeneath(base.value().get(), parent.c_str(), O_PATH | O_DIRECTORY);
  if (!directory) return directory.fault();
  bound.directory = std::move(directory).value();
  const int where = bound.directory.get();
  const char* name = bound.name.c_str();
  if (const Result<void> free = clearTheName(where, name); !free) return free.fault();

  Result<UniqueFd> made = makeSocket();
  if (!made) return made.fault();
  bound.fd = std::move(made).value();
  const Result<sockaddr_un> address = addressOf(where, name);
  if (!address) return address.fault();
  const auto* raw = reinterpret_cast<const sockaddr*>(&address.value());
  if (::bind(bound.fd.get(), raw, sizeof address.value()) != 0) return lastFault("bind");
  struct stat status {};
  Result<UniqueFd> file = openSocketFile(where, name, &status);
  if (!file) return file.fault();
  bound.device = status.st_dev;
  bound.inode = status.st_ino;
  // Until listen() nobody can connect, so the permissions are right from the first moment that matters.
  Result<void> ready = setPermissions(file.value().get(), mode, group);
  if (ready.ok() && ::listen(bound.fd.get(), backlog) != 0) ready = lastFault("listen");
  if (!ready) {
    bound.unlinkIfOurs();
    return ready.fault();
  }
  return bound;
}

Result<UniqueFd> connectUnix(const UnixPath& path) noexcept {
  Result<UniqueFd> base = openBase(path.baseDirectory);
  if (!base) return base.fault();
  struct stat status {};
  Result<UniqueFd> file = openSocketFile(base.value().get(), path.relativePath.c_str(), &status);
  if (!file) return file.fault();
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
