// The pod's interface: a persistent TAP with vnet headers and as many queues as queue pairs, made and set up in the
// pod's namespace.
// Every function here runs on a thread that has entered that namespace.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "result.h"
#include "rtnetlink.h"
#include "unique_fd.h"

namespace vu {

// A failed step with the object it failed on ("10.0.0.1/24"), and what the kernel said about it beyond the number.
struct LinkFault {
  Fault fault;
  std::string object;
  std::string explanation;
};

struct TapSpec {
  std::string name;
  uint32_t queues = 1;
  uint32_t headerBytes = 12;
  // Take over the device with this index, whatever its name is by now.
  std::optional<uint32_t> adoptIfindex;
  LinkAttributes attributes;
};

struct OpenedTap {
  uint32_t ifindex = 0;
  std::vector<UniqueFd> queues;
};

struct LinkSetup {
  uint32_t ifindex = 0;
  std::vector<LinkAddress> addresses;
  std::vector<LinkRoute> routes;
};

struct LinkState {
  LinkInfo info;
  std::vector<LinkAddress> addresses;
  std::vector<LinkRoute> routes;
};

// EEXIST: the name is taken. Adopting: ENODEV no such link, EEXIST not a TAP, ESTALE renamed or deleted meanwhile.
// A device made here is removed again when a later step fails.
std::optional<LinkFault> openTap(const TapSpec& spec, OpenedTap* opened) noexcept;
std::optional<LinkFault> setupLink(const LinkSetup& setup) noexcept;
std::optional<LinkFault> inspectLink(const std::string& name, std::optional<LinkState>* state) noexcept;
// Empty: there is no such link. `groups`: see Rtnetlink::filter.
std::optional<LinkFault> readLinkFilter(uint32_t ifindex, bool groups, std::optional<LinkFilter>* filter) noexcept;
// `deleted` is false when there is no TAP of that index; `name`, which the pod may have changed, is for messages.
std::optional<LinkFault> deleteLink(const std::string& name, uint32_t ifindex, bool* deleted) noexcept;

}  // namespace vu
