#include "pod_link.h"

#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <sys/ioctl.h>

#include <cstring>

#include "link_removal.h"

namespace vu {
namespace {

constexpr uint32_t kLoopbackIndex = 1;

LinkFault at(const Fault& fault, std::string object) { return LinkFault{fault, std::move(object), ""}; }

// A refusal of rtnetlink.
LinkFault at(const Rtnetlink& netlink, const Fault& fault, std::string object) {
  return LinkFault{fault, std::move(object), netlink.explanation()};
}

std::string text(const LinkAddress& address) {
  return address.address.text() + "/" + std::to_string(address.prefixLength);
}

std::string text(const LinkRoute& route) {
  return route.destination.text() + "/" + std::to_string(route.prefixLength) +
         (route.gateway ? " via " + route.gateway->text() : "");
}

// The namespace is bound when /dev/net/tun is opened, not at TUNSETIFF: this thread has entered it before. `more`:
// flags of TUNSETIFF beside those of all our TAPs. With IFF_TUN_EXCL the device must not be there, whatever was asked a
// moment ago.
Result<UniqueFd> openQueue(const TapSpec& spec, const std::string& name, int more) noexcept {
  UniqueFd fd(::open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC));
  if (!fd) return lastFault("open /dev/net/tun");
  ifreq request{};
  request.ifr_flags = static_cast<short>(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | more);
  std::strncpy(request.ifr_name, name.c_str(), IFNAMSIZ - 1);
  if (::ioctl(fd.get(), TUNSETIFF, &request) != 0) {
    const Fault fault = lastFault("ioctl TUNSETIFF");
    return (more & IFF_TUN_EXCL) != 0 && fault.errnum == EBUSY ? Fault{EEXIST, fault.operation} : fault;
  }
  // Belongs to the device and survives a close, but the last process may have had another one.
  const int headerBytes = static_cast<int>(spec.headerBytes);
  if (::ioctl(fd.get(), TUNSETVNETHDRSZ, &headerBytes) != 0) return lastFault("ioctl TUNSETVNETHDRSZ");
  return fd;
}

// Multi-queue only where there is more than one: for such a device the kernel makes 256 transmit queues, whatever is
// asked for, and when it goes up a qdisc for each. That is 4.7 MB of kernel memory and a millisecond; with one queue it
// is 8 KB and 0.07 ms (measured on Linux 6.18).
Result<void> openQueues(const TapSpec& spec, const std::string& name, std::vector<UniqueFd>* queues) noexcept {
  const int kind = spec.queues == 1 ? 0 : IFF_MULTI_QUEUE;
  for (uint32_t queue = 0; queue < spec.queues; ++queue) {
    const bool create = queue == 0 && !spec.adoptIfindex;
    Result<UniqueFd> fd = openQueue(spec, name, kind | (create ? IFF_TUN_EXCL : 0));
    // A device of an older version is multi-queue with one queue, too.
    if (!fd && fd.fault().errnum == EINVAL && spec.adoptIfindex && kind == 0) {
      fd = openQueue(spec, name, IFF_MULTI_QUEUE);
    }
    if (!fd) return fd.fault();
    queues->push_back(std::move(fd).value());
  }
  return {};
}

// The name for TUNSETIFF, judged before anything is made. What is taken over is known by its index alone: the pod may
// give it another name and MAC (KubeVirt does both), and the name to something else. An index is not given to a second
// link of a namespace, unless somebody inside asks for that number.
Result<std::string> nameToOpen(Rtnetlink& netlink, const TapSpec& spec) noexcept {
  const auto link = spec.adoptIfindex ? netlink.link(*spec.adoptIfindex) : netlink.link(spec.name);
  if (!link) return link.fault();
  const std::optional<LinkInfo>& info = link.value();
  if (!spec.adoptIfindex) return info ? Result<std::string>(Fault{EEXIST, "TUNSETIFF"}) : spec.name;
  if (!info) return Fault{ENODEV, "TUNSETIFF"};
  if (info->kind != "tun") return Fault{EEXIST, "TUNSETIFF"};
  return info->name;
}

// Makes a fresh device what the pod shall see; its queues are open. It becomes persistent last: before, it vanishes
// with them.
std::optional<LinkFault> dress(Rtnetlink& netlink, const TapSpec& spec, OpenedTap& tap) noexcept {
  const int off = 0;
  const int first = tap.queues.front().get();
  // Carrier follows the backend: off until there is one.
  if (::ioctl(first, TUNSETCARRIER, &off) != 0) return at(lastFault("ioctl TUNSETCARRIER"), spec.name);
  const Result<void> attributes = netlink.setAttributes(tap.ifindex, spec.attributes);
  if (!attributes) return at(netlink, attributes.fault(), spec.name);
  const Result<void> generation = netlink.disableAddressGeneration(tap.ifindex);
  // A kernel or namespace without IPv6 has nothing to generate.
  if (!generation && generation.fault().errnum != EAFNOSUPPORT) return at(netlink, generation.fault(), spec.name);
  if (::ioctl(first, TUNSETPERSIST, 1) != 0) return at(lastFault("ioctl TUNSETPERSIST"), spec.name);
  return std::nullopt;
}

LinkAddress linkLocalOf(const MacAddress& mac) noexcept {
  LinkAddress address;
  address.address.family = AF_INET6;
  address.prefixLength = 64;
  auto& bytes = address.address.bytes;
  bytes = {0xfe,   0x80,   0,    0,    0,      0,      0,     0, static_cast<uint8_t>(mac[0] ^ 2),
           mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]};
  return address;
}

}  // namespace

std::optional<LinkFault> openTap(const TapSpec& spec, OpenedTap* opened) noexcept {
  Result<Rtnetlink> netlink = Rtnetlink::open();
  if (!netlink) return at(netlink.fault(), spec.name);
  const Result<std::string> name = nameToOpen(netlink.value(), spec);
  if (!name) return at(name.fault(), spec.name);
  OpenedTap tap;
  const Result<void> queues = openQueues(spec, name.value(), &tap.queues);
  if (!queues) return at(queues.fault(), spec.name);
  // Created in this namespace and nowhere else: a TUNSETIFF by name makes a device wherever the fd was opened.
  const auto made = netlink.value().link(name.value());
  if (!made) return at(netlink.value(), made.fault(), spec.name);
  const bool isTap = made.value() && made.value()->kind == "tun";
  if (isTap) tap.ifindex = made.value()->ifindex;
  if (spec.adoptIfindex) {
    // Renamed meanwhile. What TUNSETIFF made instead is not persistent, and goes with the queues.
    if (!isTap || tap.ifindex != *spec.adoptIfindex) return at(Fault{ESTALE, "TUNSETIFF"}, spec.name);
  } else if (!isTap) {
    return at(Fault{ENODEV, "TUNSETIFF"}, spec.name);
  } else if (auto fault = dress(netlink.value(), spec, tap)) {
    return fault;
  }
  *opened = std::move(tap);
  return std::nullopt;
}

std::optional<LinkFault> setupLink(const LinkSetup& setup) noexcept {
  Result<Rtnetlink> opened = Rtnetlink::open();
  if (!opened) return at(opened.fault(), "");
  Rtnetlink& netlink = opened.value();
  const auto loopback = netlink.link("lo");
  if (loopback && loopback.value() && !loopback.value()->up) {
    const Result<void> up = netlink.setUp(kLoopbackIndex);
    if (!up) return at(netlink, up.fault(), "lo");
  }
  const Result<void> up = netlink.setUp(setup.ifindex);
  if (!up) return at(netlink, up.fault(), "link " + std::to_string(setup.ifindex));
  bool linkLocal = false;
  for (const LinkAddress& address : setup.addresses) {
    const Result<void> added = netlink.addAddress(setup.ifindex, address);
    if (!added) return at(netlink, added.fault(), text(address));
    linkLocal = linkLocal || address.address.family == AF_INET6;
  }
  if (linkLocal) {
    // IPv6 needs a link-local address for neighbour discovery; the kernel's own would wait for carrier.
    const auto link = netlink.link(setup.ifindex);
    if (!link) return at(netlink, link.fault(), "link " + std::to_string(setup.ifindex));
    if (link.value()) {
      const Result<void> added = netlink.addAddress(setup.ifindex, linkLocalOf(link.value()->mac));
      if (!added) return at(netlink, added.fault(), "link-local address");
    }
  }
  for (const LinkRoute& route : setup.routes) {
    const Result<void> added = netlink.addRoute(setup.ifindex, route);
    if (!added) return at(netlink, added.fault(), text(route));
  }
  return std::nullopt;
}

std::optional<LinkFault> inspectLink(const std::string& name, std::optional<LinkState>* state) noexcept {
  Result<Rtnetlink> netlink = Rtnetlink::open();
  if (!netlink) return at(netlink.fault(), name);
  auto link = netlink.value().link(name);
  if (!link) return at(netlink.value(), link.fault(), name);
  if (!link.value()) return std::nullopt;
  LinkState found;
  found.info = *link.value();
  auto addresses = netlink.value().addresses(found.info.ifindex);
  if (!addresses) return at(netlink.value(), addresses.fault(), name);
  found.addresses = std::move(addresses).value();
  auto routes = netlink.value().routes(found.info.ifindex);
  if (!routes) return at(netlink.value(), routes.fault(), name);
  found.routes = std::move(routes).value();
  *state = std::move(found);
  return std::nullopt;
}

std::optional<LinkFault> readLinkFilter(uint32_t ifindex, bool groups, std::optional<LinkFilter>* filter) noexcept {
  const std::string what = "link " + std::to_string(ifindex);
  Result<Rtnetlink> netlink = Rtnetlink::open();
  if (!netlink) return at(netlink.fault(), what);
  auto found = netlink.value().filter(ifindex, groups);
  if (!found) return at(netlink.value(), found.fault(), what);
  *filter = std::move(found).value();
  return std::nullopt;
}

std::optional<LinkFault> deleteLink(const std::string& name, uint32_t ifindex, bool* deleted) noexcept {
  *deleted = false;
  Result<Rtnetlink> netlink = Rtnetlink::open();
  if (!netlink) return at(netlink.fault(), name);
  const auto link = netlink.value().link(ifindex);
  if (!link) return at(netlink.value(), link.fault(), name);
  if (!link.value() || link.value()->kind != "tun") return std::nullopt;
  const Result<void> done = removeLink(std::move(netlink).value(), ifindex);
  if (!done && done.fault().errnum != ENODEV) return at(done.fault(), name);
  *deleted = done.ok();
  return std::nullopt;
}

}  // namespace vu
