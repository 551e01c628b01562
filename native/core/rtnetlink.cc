#include "rtnetlink.h"

#include <arpa/inet.h>
#include <linux/if.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <chrono>
#include <cstdio>
#include <cstring>

#ifndef IFLA_GSO_IPV4_MAX_SIZE
constexpr unsigned short kIflaGsoIpv4MaxSize = 63;  // linux/if_link.h of 6.3
#else
constexpr unsigned short kIflaGsoIpv4MaxSize = IFLA_GSO_IPV4_MAX_SIZE;
#endif

#ifndef IFLA_ALLMULTI
constexpr unsigned short kIflaAllMulti = 61;  // linux/if_link.h of 6.0
#else
constexpr unsigned short kIflaAllMulti = IFLA_ALLMULTI;
#endif

namespace vu {
namespace {

// No answer of the kernel's is larger than what one recv takes; a dump comes in several.
constexpr size_t kReceiveBytes = 64 << 10;
constexpr size_t kMessageBytes = 2048;
constexpr time_t kTimeoutSeconds = 5;
// For all of a dump, whose pieces may each come in time.
constexpr std::chrono::seconds kDumpTimeout(10);
constexpr int kDumpAttempts = 8;

// Walks the attributes of a message; lengths are checked by RTA_OK.
void eachAttribute(const rtattr* first, size_t length, const std::function<void(const rtattr*)>& each) {
  int left = static_cast<int>(length);
  for (const rtattr* attribute = first; RTA_OK(attribute, left); attribute = RTA_NEXT(attribute, left)) each(attribute);
}

uint32_t u32Of(const rtattr* attribute) noexcept {
  uint32_t value = 0;
  if (RTA_PAYLOAD(attribute) >= sizeof value) std::memcpy(&value, RTA_DATA(attribute), sizeof value);
  return value;
}

std::optional<IpAddress> addressOf(int family, const rtattr* attribute) noexcept {
  IpAddress address;
  address.family = family;
  if (RTA_PAYLOAD(attribute) < address.size()) return std::nullopt;
  std::memcpy(address.bytes.data(), RTA_DATA(attribute), address.size());
  return address;
}

template <class Header>
const rtattr* attributesOf(const nlmsghdr* header, size_t* length) noexcept {
  *length = header->nlmsg_len - NLMSG_SPACE(sizeof(Header));
  return reinterpret_cast<const rtattr*>(reinterpret_cast<const char*>(header) + NLMSG_SPACE(sizeof(Header)));
}

template <class Header>
const Header* bodyOf(const void* raw, const nlmsghdr** header) noexcept {
  *header = static_cast<const nlmsghdr*>(raw);
  if ((*header)->nlmsg_len < NLMSG_SPACE(sizeof(Header))) return nullptr;
  return static_cast<const Header*>(NLMSG_DATA(*header));
}

// NLMSGERR_ATTR_MSG of an acknowledgement. The request that it answers is left out (NETLINK_CAP_ACK), or comes before.
std::string explanationOf(const nlmsghdr* header) {
  std::string text;
  if ((header->nlmsg_flags & NLM_F_ACK_TLVS) == 0) return text;
  size_t offset = NLMSG_SPACE(sizeof(nlmsgerr));
  if ((header->nlmsg_flags & NLM_F_CAPPED) == 0) {
    const uint32_t quoted = static_cast<const nlmsgerr*>(NLMSG_DATA(header))->msg.nlmsg_len;
    if (quoted < sizeof(nlmsghdr) || quoted > header->nlmsg_len) return text;
    offset += NLMSG_ALIGN(quoted - sizeof(nlmsghdr));
  }
  if (header->nlmsg_len < offset) return text;
  const auto* first = reinterpret_cast<const rtattr*>(reinterpret_cast<const char*>(header) + offset);
  eachAttribute(first, header->nlmsg_len - offset, [&text](const rtattr* attribute) {
    if ((attribute->rta_type & NLA_TYPE_MASK) != NLMSGERR_ATTR_MSG) return;
    const auto* said = static_cast<const char*>(RTA_DATA(attribute));
    text.assign(said, ::strnlen(said, RTA_PAYLOAD(attribute)));
  });
  return text;
}

// RTA_MULTIPATH: the gateway of our interface, if it is one of the next hops.
std::optional<std::optional<IpAddress>> hopOf(int family, const rtattr* attribute, uint32_t ifindex) {
  const auto* bytes = static_cast<const char*>(RTA_DATA(attribute));
  size_t left = RTA_PAYLOAD(attribute);
  while (left >= sizeof(rtnexthop)) {
    const auto* hop = reinterpret_cast<const rtnexthop*>(bytes);
    if (hop->rtnh_len < sizeof(rtnexthop) || hop->rtnh_len > left) break;
    if (static_cast<uint32_t>(hop->rtnh_ifindex) == ifindex) {
      std::optional<IpAddress> gateway;
      eachAttribute(RTNH_DATA(hop), hop->rtnh_len - sizeof(rtnexthop), [&](const rtattr* inner) {
        if (inner->rta_type == RTA_GATEWAY) gateway = addressOf(family, inner);
      });
      return gateway;
    }
    const size_t step = RTNH_ALIGN(hop->rtnh_len);
    if (step > left) break;
    bytes += step;
    left -= step;
  }
  return std::nullopt;
}

}  // namespace

std::optional<IpAddress> IpAddress::parse(const std::string& text) noexcept {
  IpAddress address;
  for (const int family : {AF_INET, AF_INET6}) {
    if (::inet_pton(family, text.c_str(), address.bytes.data()) == 1) {
      address.family = family;
      return address;
    }
  }
  return std::nullopt;
}

std::string IpAddress::text() const {
  char buffer[INET6_ADDRSTRLEN] = "";
  ::inet_ntop(family, bytes.data(), buffer, sizeof buffer);
  return buffer;
}

std::optional<MacAddress> parseMac(const std::string& text) noexcept {
  MacAddress mac{};
  int end = 0;
  if (std::sscanf(text.c_str(), "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx%n", &mac[0], &mac[1], &mac[2], &mac[3], &mac[4], &mac[5],
                  &end) != 6 ||
      text.size() != 17 || end != 17) {
    return std::nullopt;
  }
  return mac;
}

// A request under construction, in a buffer of its own. Written by offset: pointers to parts of a buffer that other
// parts are written through are more than a compiler's bounds checks can follow.
class Rtnetlink::Message {
 public:
  template <class Body>
  Message(uint16_t type, uint16_t flags, const Body& body) noexcept {
    header_.nlmsg_type = type;
    header_.nlmsg_flags = static_cast<uint16_t>(NLM_F_REQUEST | flags);
    put(&body, sizeof body);
  }

  bool acknowledged() const noexcept { return (header_.nlmsg_flags & NLM_F_ACK) != 0; }
  void acknowledge() noexcept { header_.nlmsg_flags |= NLM_F_ACK; }

  void attribute(unsigned short type, const void* data, size_t length) noexcept {
    begin(type, length);
    put(data, length);
  }
  void attribute(unsigned short type, uint32_t value) noexcept { attribute(type, &value, sizeof value); }

  // Attributes added by `fill` go inside.
  void nested(unsigned short type, const std::function<void()>& fill) noexcept {
    const size_t outer = size_;
    begin(type, 0);
    fill();
    if (!fits_) return;
    const rtattr made{static_cast<unsigned short>(size_ - outer), type};
    std::memcpy(buffer_.data() + outer, &made, sizeof made);
  }

  // The finished request; empty when it does not fit.
  std::optional<std::pair<const char*, size_t>> finish(uint32_t sequence) noexcept {
    if (!fits_) return std::nullopt;
    header_.nlmsg_seq = sequence;
    header_.nlmsg_len = static_cast<uint32_t>(size_);
    std::memcpy(buffer_.data(), &header_, sizeof header_);
    return std::pair<const char*, size_t>(buffer_.data(), size_);
  }

 private:
  void begin(unsigned short type, size_t length) noexcept {
    const rtattr made{static_cast<unsigned short>(RTA_LENGTH(length)), type};
    put(&made, sizeof made);
  }
  // Appends, padded with zeros to the alignment that headers and attributes share (4).
  void put(const void* data, size_t length) noexcept {
    fits_ = fits_ && length <= buffer_.size() && size_ + NLMSG_ALIGN(length) <= buffer_.size();
    if (!fits_) return;
    std::memcpy(buffer_.data() + size_, data, length);
    size_ += NLMSG_ALIGN(length);
  }

  nlmsghdr header_{};
  alignas(nlmsghdr) std::array<char, kMessageBytes> buffer_{};
  size_t size_ = NLMSG_HDRLEN;
  bool fits_ = true;
};

Result<Rtnetlink> Rtnetlink::open() noexcept {
  UniqueFd fd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
  if (!fd) return lastFault("socket NETLINK_ROUTE");
  const timeval timeout{kTimeoutSeconds, 0};
  if (::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout) != 0) {
    return lastFault("setsockopt SO_RCVTIMEO");
  }
  // Best effort: a kernel without them gives a number only.
  const int one = 1;
  ::setsockopt(fd.get(), SOL_NETLINK, NETLINK_EXT_ACK, &one, sizeof one);
  ::setsockopt(fd.get(), SOL_NETLINK, NETLINK_CAP_ACK, &one, sizeof one);
  sockaddr_nl address{};
  address.nl_family = AF_NETLINK;
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) return lastFault("bind");
  return Rtnetlink(std::move(fd));
}

Result<void> Rtnetlink::query(Message& message, const char* operation,
                              const std::function<void(const void*)>& each) noexcept {
  explanation_.clear();
  const uint32_t sequence = sequence_++;
  const auto request = message.finish(sequence);
  if (!request) return Fault{EMSGSIZE, operation};
  if (::send(fd_.get(), request->first, request->second, 0) < 0) return lastFault(operation);
  alignas(nlmsghdr) static thread_local std::array<char, kReceiveBytes> buffer;
  const auto deadline = std::chrono::steady_clock::now() + kDumpTimeout;
  bool interrupted = false;
  for (;;) {
    if (std::chrono::steady_clock::now() > deadline) return Fault{ETIMEDOUT, operation};
    sockaddr_nl sender{};
    socklen_t senderLength = sizeof sender;
    const ssize_t received = ::recvfrom(fd_.get(), buffer.data(), buffer.size(), MSG_TRUNC,
                                        reinterpret_cast<sockaddr*>(&sender), &senderLength);
    if (received < 0) {
      if (errno == EINTR) continue;
      return lastFault(operation);
    }
    if (sender.nl_pid != 0) continue;  // not the kernel
    if (static_cast<size_t>(received) > buffer.size()) return Fault{EMSGSIZE, operation};
    auto left = static_cast<unsigned>(received);
    for (auto* header = reinterpret_cast<nlmsghdr*>(buffer.data()); NLMSG_OK(header, left);
         header = NLMSG_NEXT(header, left)) {
      if (header->nlmsg_seq != sequence) continue;
      if ((header->nlmsg_flags & NLM_F_DUMP_INTR) != 0) interrupted = true;
      if (header->nlmsg_type == NLMSG_DONE) {
        int error = 0;
        if (header->nlmsg_len >= NLMSG_LENGTH(sizeof error)) std::memcpy(&error, NLMSG_DATA(header), sizeof error);
        if (error < 0) return Fault{-error, operation};
        return interrupted ? Result<void>(Fault{EINTR, operation}) : Result<void>();
      }
      if (header->nlmsg_type == NLMSG_ERROR) {
        if (header->nlmsg_len < NLMSG_LENGTH(sizeof(nlmsgerr))) return Fault{EBADMSG, operation};
        const int error = static_cast<const nlmsgerr*>(NLMSG_DATA(header))->error;
        if (error == 0) return {};
        explanation_ = explanationOf(header);
        return Fault{-error, operation};
      }
      each(header);
      if (enough_) return {};
      if ((header->nlmsg_flags & NLM_F_MULTI) == 0 && !message.acknowledged()) return {};
    }
  }
}

Result<void> Rtnetlink::dump(Message& message, const char* operation, const std::function<void()>& restart,
                             const std::function<void(const void*)>& each) noexcept {
  Result<void> done;
  for (int attempt = 0; attempt < kDumpAttempts; ++attempt) {
    restart();
    done = query(message, operation, each);
    if (done || done.fault().errnum != EINTR) break;
  }
  return done;
}

Result<void> Rtnetlink::execute(Message& message, const char* operation) noexcept {
  message.acknowledge();
  return query(message, operation, [](const void*) {});
}

Result<std::optional<LinkInfo>> Rtnetlink::link(const std::string& name) noexcept {
  const ifinfomsg body{};
  Message message(RTM_GETLINK, 0, body);
  message.attribute(IFLA_IFNAME, name.c_str(), name.size() + 1);
  return askLink(message);
}

Result<std::optional<LinkInfo>> Rtnetlink::link(uint32_t ifindex) noexcept {
  ifinfomsg body{};
  body.ifi_index = static_cast<int>(ifindex);
  Message message(RTM_GETLINK, 0, body);
  return askLink(message);
}

Result<std::optional<LinkInfo>> Rtnetlink::askLink(Message& message) noexcept {
  std::optional<LinkInfo> found;
  const Result<void> asked = query(message, "RTM_GETLINK", [&found](const void* raw) {
    const nlmsghdr* header = nullptr;
    const auto* info = bodyOf<ifinfomsg>(raw, &header);
    if (info == nullptr) return;
    LinkInfo link;
    link.ifindex = static_cast<uint32_t>(info->ifi_index);
    link.up = (info->ifi_flags & IFF_UP) != 0;
    size_t length = 0;
    const rtattr* first = attributesOf<ifinfomsg>(header, &length);
    eachAttribute(first, length, [&link](const rtattr* attribute) {
      switch (attribute->rta_type & NLA_TYPE_MASK) {
        case IFLA_IFNAME: {
          const auto* text = static_cast<const char*>(RTA_DATA(attribute));
          link.name.assign(text, ::strnlen(text, RTA_PAYLOAD(attribute)));
          break;
        }
        case IFLA_ADDRESS:
          if (RTA_PAYLOAD(attribute) == link.mac.size())
            std::memcpy(link.mac.data(), RTA_DATA(attribute), link.mac.size());
          break;
        case IFLA_MTU:
          link.mtu = u32Of(attribute);
          break;
        case IFLA_CARRIER:
          link.carrier = RTA_PAYLOAD(attribute) >= 1 && *static_cast<const uint8_t*>(RTA_DATA(attribute)) != 0;
          break;
        case IFLA_LINKINFO:
          eachAttribute(static_cast<const rtattr*>(RTA_DATA(attribute)), RTA_PAYLOAD(attribute),
                        [&link](const rtattr* inner) {
                          if ((inner->rta_type & NLA_TYPE_MASK) != IFLA_INFO_KIND) return;
                          const auto* text = static_cast<const char*>(RTA_DATA(inner));
                          link.kind.assign(text, ::strnlen(text, RTA_PAYLOAD(inner)));
                        });
          break;
        default:
          break;
      }
    });
    found = std::move(link);
  });
  if (!asked && asked.fault().errnum != ENODEV) return asked.fault();
  return found;
}

Result<std::optional<LinkFilter>> Rtnetlink::filter(uint32_t ifindex, bool groups) noexcept {
  std::optional<LinkFilter> found;
  ifinfomsg body{};
  body.ifi_index = static_cast<int>(ifindex);
  Message ask(RTM_GETLINK, 0, body);
  const Result<void> asked = query(ask, "RTM_GETLINK", [&found](const void* raw) {
    const nlmsghdr* header = nullptr;
    const auto* info = bodyOf<ifinfomsg>(raw, &header);
    if (info == nullptr) return;
    LinkFilter filter;
    // A kernel before 6.0 counts in IFLA_PROMISCUITY only; what `ip link` was told is in the flags.
    filter.promiscuous = (info->ifi_flags & IFF_PROMISC) != 0;
    filter.allMulticast = (info->ifi_flags & IFF_ALLMULTI) != 0;
    size_t length = 0;
    const rtattr* first = attributesOf<ifinfomsg>(header, &length);
    eachAttribute(first, length, [&filter](const rtattr* attribute) {
      switch (attribute->rta_type & NLA_TYPE_MASK) {
        case IFLA_ADDRESS:
          if (RTA_PAYLOAD(attribute) == filter.mac.size())
            std::memcpy(filter.mac.data(), RTA_DATA(attribute), filter.mac.size());
          break;
        case IFLA_MTU:
          filter.mtu = u32Of(attribute);
          break;
        case IFLA_PROMISCUITY:
          filter.promiscuous = filter.promiscuous || u32Of(attribute) != 0;
          break;
        case kIflaAllMulti:
          filter.allMulticast = filter.allMulticast || u32Of(attribute) != 0;
          break;
        default:
          break;
      }
    });
    found = std::move(filter);
  });
  if (!asked) {
    if (asked.fault().errnum == ENODEV) return std::optional<LinkFilter>();
    return asked.fault();
  }
  if (!found) return found;
  found->allMulticast = found->allMulticast || !groups;
  // The address lists of a device are what `bridge fdb show` calls its own ("self") entries, unicast ones first
  // (ndo_dflt_fdb_dump): with the first group that need not be known the rest need not be, either.
  body.ifi_family = AF_BRIDGE;
  Message list(RTM_GETNEIGH, NLM_F_DUMP, body);
  const auto restart = [&found] {
    found->unicast.clear();
    found->multicast.clear();
  };
  const Result<void> listed = dump(list, "RTM_GETNEIGH", restart, [&, this](const void* raw) {
    const nlmsghdr* header = nullptr;
    const auto* entry = bodyOf<ndmsg>(raw, &header);
    if (entry == nullptr || entry->ndm_ifindex != static_cast<int>(ifindex) || (entry->ndm_flags & NTF_SELF) == 0) {
      return;
    }
    size_t length = 0;
    const rtattr* first = attributesOf<ndmsg>(header, &length);
    eachAttribute(first, length, [&found, this](const rtattr* attribute) {
      MacAddress mac;
      if (attribute->rta_type != NDA_LLADDR || RTA_PAYLOAD(attribute) != mac.size()) return;
      std::memcpy(mac.data(), RTA_DATA(attribute), mac.size());
      const bool group = (mac[0] & 1) != 0;
      auto& list = group ? found->multicast : found->unicast;
      if (list.size() < kFilterAddresses && !(group && found->allMulticast)) {
        list.push_back(mac);
        return;
      }
      list.clear();
      // What has not been read yet is let in, too.
      found->allMulticast = true;
      if (!group) {
        found->promiscuous = true;
        found->multicast.clear();
      }
      enough();
    });
  });
  if (!listed) {
    if (listed.fault().errnum == ENODEV) return std::optional<LinkFilter>();
    return listed.fault();
  }
  return found;
}

Result<void> Rtnetlink::setAttributes(uint32_t ifindex, const LinkAttributes& attributes) noexcept {
  ifinfomsg body{};
  body.ifi_index = static_cast<int>(ifindex);
  Message message(RTM_NEWLINK, 0, body);
  message.attribute(IFLA_ADDRESS, attributes.mac.data(), attributes.mac.size());
  message.attribute(IFLA_MTU, attributes.mtu);
  message.attribute(IFLA_TXQLEN, attributes.txQueueLength);
  message.attribute(IFLA_GSO_MAX_SIZE, attributes.gsoMaxBytes);
  message.attribute(kIflaGsoIpv4MaxSize, attributes.gsoMaxBytes);
  return execute(message, "RTM_NEWLINK address, mtu, txqueuelen, gso_max_size");
}

Result<void> Rtnetlink::disableAddressGeneration(uint32_t ifindex) noexcept {
  ifinfomsg body{};
  body.ifi_index = static_cast<int>(ifindex);
  Message message(RTM_NEWLINK, 0, body);
  message.nested(IFLA_AF_SPEC | NLA_F_NESTED, [&message] {
    message.nested(AF_INET6 | NLA_F_NESTED, [&message] {
      const uint8_t none = IN6_ADDR_GEN_MODE_NONE;
      message.attribute(IFLA_INET6_ADDR_GEN_MODE, &none, sizeof none);
    });
  });
  return execute(message, "RTM_NEWLINK addr_gen_mode");
}

Result<void> Rtnetlink::setUp(uint32_t ifindex) noexcept {
  ifinfomsg body{};
  body.ifi_index = static_cast<int>(ifindex);
  body.ifi_flags = IFF_UP;
  body.ifi_change = IFF_UP;
  Message message(RTM_NEWLINK, 0, body);
  return execute(message, "RTM_NEWLINK up");
}

Result<void> Rtnetlink::addAddress(uint32_t ifindex, const LinkAddress& address) noexcept {
  ifaddrmsg body{};
  body.ifa_family = static_cast<uint8_t>(address.address.family);
  body.ifa_prefixlen = address.prefixLength;
  body.ifa_index = ifindex;
  const bool linkLocal = address.address.family == AF_INET6 && address.address.bytes[0] == 0xfe &&
                         (address.address.bytes[1] & 0xc0) == 0x80;
  body.ifa_scope = linkLocal ? RT_SCOPE_LINK : RT_SCOPE_UNIVERSE;
  Message message(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, body);
  const size_t size = address.address.size();
  message.attribute(IFA_LOCAL, address.address.bytes.data(), size);
  message.attribute(IFA_ADDRESS, address.address.bytes.data(), size);
  if (address.address.family == AF_INET6) {
    message.attribute(IFA_FLAGS, uint32_t{IFA_F_NODAD});
  } else if (address.prefixLength < 31) {
    uint32_t broadcast = 0;
    std::memcpy(&broadcast, address.address.bytes.data(), sizeof broadcast);
    broadcast |= htonl(address.prefixLength == 0 ? 0xffffffffU : (1U << (32 - address.prefixLength)) - 1);
    message.attribute(IFA_BROADCAST, broadcast);
  }
  const Result<void> done = execute(message, "RTM_NEWADDR");
  if (!done && done.fault().errnum == EEXIST) return {};
  return done;
}

Result<void> Rtnetlink::addRouteOnce(uint32_t ifindex, const LinkRoute& route, bool onLink) noexcept {
  rtmsg body{};
  const bool v4 = route.destination.family == AF_INET;
  body.rtm_family = static_cast<uint8_t>(route.destination.family);
  body.rtm_dst_len = route.prefixLength;
  body.rtm_table = RT_TABLE_MAIN;
  body.rtm_protocol = RTPROT_BOOT;
  body.rtm_type = RTN_UNICAST;
  body.rtm_scope = static_cast<uint8_t>(route.scope.value_or(v4 && !route.gateway ? RT_SCOPE_LINK : RT_SCOPE_UNIVERSE));
  if (onLink) body.rtm_flags |= RTNH_F_ONLINK;
  Message message(RTM_NEWROUTE, NLM_F_CREATE, body);
  const size_t size = route.destination.size();
  if (route.prefixLength > 0) message.attribute(RTA_DST, route.destination.bytes.data(), size);
  if (route.gateway) message.attribute(RTA_GATEWAY, route.gateway->bytes.data(), size);
  message.attribute(RTA_OIF, ifindex);
  if (route.table) message.attribute(RTA_TABLE, *route.table);
  if (route.priority) message.attribute(RTA_PRIORITY, *route.priority);
  if (route.mtu || route.advmss) {
    message.nested(RTA_METRICS, [&] {
      if (route.mtu) message.attribute(RTAX_MTU, *route.mtu);
      if (route.advmss) message.attribute(RTAX_ADVMSS, *route.advmss);
    });
  }
  return execute(message, "RTM_NEWROUTE");
}

Result<void> Rtnetlink::addRoute(uint32_t ifindex, const LinkRoute& route) noexcept {
  Result<void> done = addRouteOnce(ifindex, route, false);
  const int error = done.fault().errnum;
  if (!done && route.gateway && (error == ENETUNREACH || error == EHOSTUNREACH || error == EINVAL)) {
    done = addRouteOnce(ifindex, route, true);
  }
  if (!done && done.fault().errnum == EEXIST) return {};
  return done;
}

Result<void> Rtnetlink::deleteLink(uint32_t ifindex) noexcept {
  ifinfomsg body{};
  body.ifi_index = static_cast<int>(ifindex);
  Message message(RTM_DELLINK, 0, body);
  return execute(message, "RTM_DELLINK");
}

Result<std::vector<LinkAddress>> Rtnetlink::addresses(uint32_t ifindex) noexcept {
  ifaddrmsg body{};
  Message message(RTM_GETADDR, NLM_F_DUMP, body);
  std::vector<LinkAddress> found;
  const auto restart = [&found] { found.clear(); };
  const Result<void> asked = dump(message, "RTM_GETADDR", restart, [&](const void* raw) {
    const nlmsghdr* header = nullptr;
    const auto* info = bodyOf<ifaddrmsg>(raw, &header);
    if (info == nullptr || info->ifa_index != ifindex) return;
    if (info->ifa_family != AF_INET && info->ifa_family != AF_INET6) return;
    std::optional<IpAddress> local, peer;
    size_t length = 0;
    const rtattr* first = attributesOf<ifaddrmsg>(header, &length);
    eachAttribute(first, length, [&](const rtattr* attribute) {
      if (attribute->rta_type == IFA_LOCAL) local = addressOf(info->ifa_family, attribute);
      if (attribute->rta_type == IFA_ADDRESS) peer = addressOf(info->ifa_family, attribute);
    });
    const std::optional<IpAddress>& address = local ? local : peer;
    if (address) found.push_back(LinkAddress{*address, info->ifa_prefixlen});
  });
  if (!asked) return asked.fault();
  return found;
}

Result<std::vector<LinkRoute>> Rtnetlink::routes(uint32_t ifindex) noexcept {
  std::vector<LinkRoute> found;
  for (const int family : {AF_INET, AF_INET6}) {
    rtmsg body{};
    body.rtm_family = static_cast<uint8_t>(family);
    Message message(RTM_GETROUTE, NLM_F_DUMP, body);
    const size_t before = found.size();
    const auto restart = [&] { found.resize(before); };
    const Result<void> asked = dump(message, "RTM_GETROUTE", restart, [&](const void* raw) {
      const nlmsghdr* header = nullptr;
      const auto* info = bodyOf<rtmsg>(raw, &header);
      if (info == nullptr || info->rtm_family != family || info->rtm_type != RTN_UNICAST) return;
      LinkRoute route;
      route.destination.family = family;
      route.prefixLength = info->rtm_dst_len;
      route.table = info->rtm_table;
      route.scope = info->rtm_scope;
      uint32_t interface = 0;
      size_t length = 0;
      const rtattr* first = attributesOf<rtmsg>(header, &length);
      eachAttribute(first, length, [&](const rtattr* attribute) {
        switch (attribute->rta_type) {
          case RTA_DST:
            if (const auto address = addressOf(family, attribute)) route.destination = *address;
            break;
          case RTA_GATEWAY:
            route.gateway = addressOf(family, attribute);
            break;
          case RTA_OIF:
            interface = u32Of(attribute);
            break;
          case RTA_PRIORITY:
            route.priority = u32Of(attribute);
            break;
          case RTA_TABLE:
            route.table = u32Of(attribute);
            break;
          case RTA_MULTIPATH:
            if (const auto gateway = hopOf(family, attribute, ifindex)) {
              interface = ifindex;
              route.gateway = *gateway;
            }
            break;
          case RTA_METRICS:
            eachAttribute(static_cast<const rtattr*>(RTA_DATA(attribute)), RTA_PAYLOAD(attribute),
                          [&route](const rtattr* metric) {
                            const unsigned type = metric->rta_type & NLA_TYPE_MASK;
                            if (type == RTAX_MTU) route.mtu = u32Of(metric);
                            if (type == RTAX_ADVMSS) route.advmss = u32Of(metric);
                          });
            break;
          default:
            break;
        }
      });
      if (interface == ifindex) found.push_back(route);
    });
    if (!asked && asked.fault().errnum != EAFNOSUPPORT && asked.fault().errnum != EOPNOTSUPP) return asked.fault();
  }
  return found;
}

}  // namespace vu
