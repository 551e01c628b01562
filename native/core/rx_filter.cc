#include "rx_filter.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

namespace vu {
namespace {

constexpr MacAddress kBroadcast = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
constexpr uint32_t kTypeOffset = 12;

bool contains(const std::vector<MacAddress>& sorted, const MacAddress& mac) noexcept {
  return std::binary_search(sorted.begin(), sorted.end(), mac);
}

}  // namespace

RxFilter::RxFilter(RxFilterRules rules) noexcept : rules_(std::move(rules)) {
  std::sort(rules_.unicast.begin(), rules_.unicast.end());
  std::sort(rules_.multicast.begin(), rules_.multicast.end());
}

bool RxFilter::passes(const uint8_t* frame) const noexcept {
  if (rules_.promiscuous) return true;
  if (rules_.filterVlans && frame[kTypeOffset] == 0x81 && frame[kTypeOffset + 1] == 0x00) {
    const auto vlan = static_cast<size_t>((frame[kTypeOffset + 2] & 0x0f) << 8 | frame[kTypeOffset + 3]);
    if (!rules_.vlans.test(vlan)) return false;
  }
  MacAddress destination;
  std::memcpy(destination.data(), frame, destination.size());
  if ((destination[0] & 1) == 0) {
    if (rules_.noUnicast) return false;
    return destination == rules_.mac || rules_.allUnicast || contains(rules_.unicast, destination);
  }
  if (destination == kBroadcast) return !rules_.noBroadcast;
  if (rules_.noMulticast) return false;
  return rules_.allMulticast || contains(rules_.multicast, destination);
}

}  // namespace vu
