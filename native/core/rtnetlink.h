// The handful of rtnetlink messages that a pod's interface needs (rtnetlink(7)). One socket per operation: an open one
// would keep the pod's namespace alive.
#pragma once

#include <netinet/in.h>

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "result.h"
#include "unique_fd.h"

namespace vu {

struct IpAddress {
  int family = AF_UNSPEC;
  std::array<uint8_t, 16> bytes{};

  size_t size() const noexcept { return family == AF_INET ? 4 : 16; }
  static std::optional<IpAddress> parse(const std::string& text) noexcept;
  std::string text() const;
};

struct LinkAddress {
  IpAddress address;
  uint8_t prefixLength = 0;
};

struct LinkRoute {
  IpAddress destination;
  uint8_t prefixLength = 0;
  std::optional<IpAddress> gateway;
  std::optional<uint32_t> mtu, advmss, priority, table, scope;
};

using MacAddress = std::array<uint8_t, 6>;
std::optional<MacAddress> parseMac(const std::string& text) noexcept;

struct LinkInfo {
  uint32_t ifindex = 0;
  std::string name;
  std::string kind;
  MacAddress mac{};
  uint32_t mtu = 0;
  bool up = false;
  bool carrier = false;
};

// More addresses than one command of the control queue carries (src/virtio/control.ts): such a list becomes the mode
// that lets them all in anyway. Any program of a pod can join groups without end, each look at them holds RTNL, and the
// kernel walks the list from its start for every piece of it.
inline constexpr size_t kFilterAddresses = 682;

// What a link wants of its device: what a network card would be told (dev_set_rx_mode, dev_set_mtu). Where allMulticast
// is set the groups are left out.
struct LinkFilter {
  MacAddress mac{};
  uint32_t mtu = 0;
  bool promiscuous = false;
  bool allMulticast = false;
  std::vector<MacAddress> unicast;
  std::vector<MacAddress> multicast;
};

struct LinkAttributes {
  MacAddress mac{};
  uint32_t mtu = 0;
  uint32_t txQueueLength = 0;
  uint32_t gsoMaxBytes = 0;
};

class Rtnetlink {
 public:
  // Bound to the namespace of the calling thread.
  static Result<Rtnetlink> open() noexcept;

  // What the kernel said about the last refusal (extended acknowledgement), or empty.
  const std::string& explanation() const noexcept { return explanation_; }

  // ENODEV is a value here: an empty optional.
  Result<std::optional<LinkInfo>> link(const std::string& name) noexcept;
  Result<std::optional<LinkInfo>> link(uint32_t ifindex) noexcept;
  // Empty: there is no such link. Without `groups` multicast is not asked for: all of it passes. Once per socket: a
  // long list is not read to its end.
  Result<std::optional<LinkFilter>> filter(uint32_t ifindex, bool groups) noexcept;
  Result<void> setAttributes(uint32_t ifindex, const LinkAttributes& attributes) noexcept;
  // No link-local address by itself: it would stay tentative for ever without carrier.
  Result<void> disableAddressGeneration(uint32_t ifindex) noexcept;
  Result<void> setUp(uint32_t ifindex) noexcept;
  // IPv6 without duplicate address detection. Existing is success.
  Result<void> addAddress(uint32_t ifindex, const LinkAddress& address) noexcept;
  // A gateway outside the connected networks is taken as on-link. Existing is success; another route to the same
  // destination is not: this one is put before it (IPv4) or beside it (IPv6), as the CNI reference plugins do.
  Result<void> addRoute(uint32_t ifindex, const LinkRoute& route) noexcept;
  Result<void> deleteLink(uint32_t ifindex) noexcept;
  Result<std::vector<LinkAddress>> addresses(uint32_t ifindex) noexcept;
  Result<std::vector<LinkRoute>> routes(uint32_t ifindex) noexcept;

 private:
  explicit Rtnetlink(UniqueFd fd) noexcept : fd_(std::move(fd)) {}
  class Message;
  // Sends and waits for the acknowledgement.
  Result<void> execute(Message& message, const char* operation) noexcept;
  // Sends and hands every answer to `each` until the end of the dump, the only answer, or enough(). EINTR: the tables
  // changed during the dump.
  Result<void> query(Message& message, const char* operation,
                     const std::function<void(const void* header)>& each) noexcept;
  // query() of a dump, again while it is interrupted; `restart` forgets what an interrupted one has shown.
  Result<void> dump(Message& message, const char* operation, const std::function<void()>& restart,
                    const std::function<void(const void* header)>& each) noexcept;
  // For `each`: the rest of the answer is not wanted. The kernel is still dumping, and this socket good for nothing
  // more.
  void enough() noexcept { enough_ = true; }
  Result<std::optional<LinkInfo>> askLink(Message& message) noexcept;
  Result<void> addRouteOnce(uint32_t ifindex, const LinkRoute& route, bool onLink) noexcept;

  UniqueFd fd_;
  uint32_t sequence_ = 1;
  bool enough_ = false;
  std::string explanation_;
};

}  // namespace vu
