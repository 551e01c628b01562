// A strict model of the device side of one split ring: what an interrupt-driven backend does, with every rule checked.
//
// A broken rule is remembered as a sentence in violation(); nothing is thrown. Not thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "address_map.h"
#include "vring.h"

namespace vu::test {

struct Segment {
  uint8_t* host = nullptr;
  uint32_t len = 0;
};

struct Chain {
  uint16_t head = 0;
  std::vector<Segment> segments;
  uint32_t bytes() const {
    uint32_t total = 0;
    for (const Segment& segment : segments) total += segment.len;
    return total;
  }
};

class RingDevice {
 public:
  // `writable`: chains are for the device to write (receive). Eventfds are borrowed, -1 = none.
  RingDevice(const Vring& ring, const AddressMap& memory, bool writable, bool eventIdx, int kickFd, int callFd);

  // Takes the next available chain. false: nothing there.
  bool pop(Chain& chain);
  // Number of chains that could be popped.
  uint16_t available();
  // Writes a used element; visible after publish().
  void push(uint16_t head, uint32_t len);
  void publish();
  // Sends a call if the driver wants one. Returns whether it did.
  bool notify();
  // Asks for kicks and looks again: true when something is available, so do not sleep.
  bool armKicks();
  // Polling backend: no kicks, please.
  void suppressKicks();
  // Reads the kick eventfd: the number of kicks.
  uint64_t drainKicks();

  uint32_t held() const { return heldCount_; }
  uint16_t usedIndex() const { return usedIdx_; }
  const std::string& violation() const { return violation_; }

  // Misbehaviour.
  void forgeUsed(uint16_t slotOffset, uint32_t id, uint32_t len);
  void forgeUsedIndex(uint16_t value);

 private:
  void complain(const std::string& what);

  Vring ring_;
  const AddressMap& memory_;
  bool writable_;
  bool eventIdx_;
  int kickFd_;
  int callFd_;
  uint16_t lastAvail_ = 0;
  uint16_t usedIdx_ = 0;
  uint16_t published_ = 0;
  uint16_t callChecked_ = 0;
  uint32_t heldCount_ = 0;
  std::vector<bool> holding_;
  std::string violation_;
};

}  // namespace vu::test
