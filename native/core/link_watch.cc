#include "link_watch.h"

#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <utility>

namespace vu {
namespace {

// linux/rtnetlink.h of 6.14: RTNLGRP_IPV4_MCADDR, RTNLGRP_IPV6_MCADDR.
constexpr int kGroupIpv4Multicast = 37;
constexpr int kGroupIpv6Multicast = 38;

bool subscribe(int fd, int group) noexcept {
  return ::setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group) == 0;
}

}  // namespace

Result<UniqueFd> openLinkEvents(bool* groups) noexcept {
  UniqueFd fd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE));
  if (!fd) return lastFault("socket NETLINK_ROUTE");
  // Without an address of its own the socket counts as the kernel's, and is left out.
  sockaddr_nl address{};
  address.nl_family = AF_NETLINK;
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return lastFault("bind NETLINK_ROUTE");
  }
  if (!subscribe(fd.get(), RTNLGRP_LINK)) return lastFault("setsockopt NETLINK_ADD_MEMBERSHIP");
  *groups = subscribe(fd.get(), kGroupIpv4Multicast) && subscribe(fd.get(), kGroupIpv6Multicast);
  return fd;
}

Result<std::shared_ptr<LinkWatch>> LinkWatch::open(std::shared_ptr<Reactor> reactor, UniqueFd events,
                                                   std::function<void()> onChange) noexcept {
  std::shared_ptr<LinkWatch> watch(new LinkWatch(std::move(reactor), std::move(events), std::move(onChange)));
  const std::lock_guard lock(watch->mutex_);
  auto added = watch->reactor_->add(watch->events_.get(), EPOLLIN, watch);
  if (!added) return added.fault();
  watch->id_ = added.value();
  return watch;
}

void LinkWatch::listen() noexcept {
  const std::lock_guard lock(mutex_);
  if (!events_) return;
  std::array<char, 8192> buffer;
  // ENOBUFS: more came than fits, which is a change like any other.
  while (::recv(events_.get(), buffer.data(), buffer.size(), MSG_TRUNC) >= 0 || errno == ENOBUFS) {
  }
  reactor_->rearm(id_, events_.get(), EPOLLIN);
}

void LinkWatch::close() noexcept {
  const std::lock_guard lock(mutex_);
  if (!events_) return;
  reactor_->remove(id_, events_.get());
  events_.reset();
}

void LinkWatch::onReady(uint32_t /*events*/) noexcept { onChange_(); }

}  // namespace vu
