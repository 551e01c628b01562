#include "link_removal.h"

#include <linux/rtnetlink.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <array>
#include <memory>

#include "thread.h"

namespace vu {
namespace {

constexpr int kTimeoutMs = 5000;

struct Removal {
  Rtnetlink netlink;
  UniqueFd done;
  Result<void> result;
};

// Tells of every change to links of the namespace from now on.
Result<UniqueFd> linkEvents() noexcept {
  UniqueFd fd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE));
  if (!fd) return lastFault("socket NETLINK_ROUTE");
  sockaddr_nl address{};
  address.nl_family = AF_NETLINK;
  address.nl_groups = RTMGRP_LINK;
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) return lastFault("bind");
  return fd;
}

// Reads what has come. true: the link's end is among it.
bool sawRemoval(const UniqueFd& events, uint32_t ifindex) noexcept {
  alignas(nlmsghdr) std::array<char, 16 << 10> buffer;
  for (;;) {
    const ssize_t received = ::recv(events.get(), buffer.data(), buffer.size(), 0);
    if (received < 0) return false;  // also ENOBUFS: then the sender's own end is waited for
    auto left = static_cast<unsigned>(received);
    for (auto* header = reinterpret_cast<nlmsghdr*>(buffer.data()); NLMSG_OK(header, left);
         header = NLMSG_NEXT(header, left)) {
      if (header->nlmsg_type != RTM_DELLINK || header->nlmsg_len < NLMSG_LENGTH(sizeof(ifinfomsg))) continue;
      const auto* info = static_cast<const ifinfomsg*>(NLMSG_DATA(header));
      // A bridge tells of a port that leaves it in the same words, for its own family.
      if (info->ifi_family == AF_UNSPEC && info->ifi_index == static_cast<int>(ifindex)) return true;
    }
  }
}

}  // namespace

Result<void> removeLink(Rtnetlink netlink, uint32_t ifindex) noexcept {
  Result<UniqueFd> events = linkEvents();
  if (!events) return events.fault();
  UniqueFd done(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!done) return lastFault("eventfd");
  auto removal = std::make_shared<Removal>(Removal{std::move(netlink), std::move(done), {}});
  Result<Thread> thread = Thread::start("vu-dellink", [removal, ifindex] {
    removal->result = removal->netlink.deleteLink(ifindex);
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = ::write(removal->done.get(), &one, sizeof one);
  });
  if (!thread) return thread.fault();
  thread.value().detach();
  for (;;) {
    std::array<pollfd, 2> watched{{{events.value().get(), POLLIN, 0}, {removal->done.get(), POLLIN, 0}}};
    const int ready = ::poll(watched.data(), watched.size(), kTimeoutMs);
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) return Fault{ETIMEDOUT, "RTM_DELLINK"};
    if (watched[1].revents != 0) return removal->result;
    if (sawRemoval(events.value(), ifindex)) return {};
  }
}

}  // namespace vu
