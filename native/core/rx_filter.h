// Which frames of the backend are for the pod: what the control queue's RX, MAC and VLAN commands have set
// (virtio 1.2, 5.1.6.5.1 to 5.1.6.5.3; the order of the rules is QEMU's).
//
// It saves the pod's kernel frames that a switch floods. It is no boundary: the backend may rewrite a frame after it
// was looked at.
#pragma once

#include <bitset>
#include <cstdint>
#include <vector>

#include "rtnetlink.h"

namespace vu {

struct RxFilterRules {
  // Passes everything, whatever the rest says.
  bool promiscuous = true;
  bool allMulticast = false;
  bool allUnicast = false;
  bool noMulticast = false;
  bool noUnicast = false;
  bool noBroadcast = false;
  MacAddress mac{};
  std::vector<MacAddress> unicast;
  std::vector<MacAddress> multicast;
  // Only tagged frames of these VLANs pass; untagged ones always do.
  bool filterVlans = false;
  std::bitset<4096> vlans;
};

class RxFilter {
 public:
  // Destination, source, type, tag.
  static constexpr uint32_t kLookBytes = 18;

  explicit RxFilter(RxFilterRules rules) noexcept;

  // `frame`: the first kLookBytes behind the virtio header, zeros where it is shorter.
  bool passes(const uint8_t* frame) const noexcept;

 private:
  RxFilterRules rules_;
};

}  // namespace vu
