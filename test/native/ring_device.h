// Strict models of the device side of one ring, split or packed: what an interrupt-driven backend does, with every rule
// checked.
//
// A broken rule is remembered as a sentence in violation(); nothing is thrown. Not thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "address_map.h"
#include "virtq_books.h"
#include "vring_packed.h"

namespace vu::test {

struct Segment {
  uint8_t* host = nullptr;
  uint32_t len = 0;
};

struct Chain {
  // Split: index of the first descriptor. Packed: buffer id.
  uint16_t head = 0;
  // Descriptors of the ring that it takes: one where they lie in a table.
  uint16_t slots = 0;
  std::vector<Segment> segments;
  uint32_t bytes() const {
    uint32_t total = 0;
    for (const Segment& segment : segments) total += segment.len;
    return total;
  }
};

struct DeviceSetup {
  const AddressMap& memory;
  // Chains are for the device to write (receive).
  bool writable;
  VirtqFeatures features;
  // Borrowed; -1 = none.
  int kickFd = -1;
  int callFd = -1;
  // INDIRECT_DESC was negotiated.
  bool indirect = false;
};

class RingDevice {
 public:
  virtual ~RingDevice() = default;
  RingDevice(const RingDevice&) = delete;
  RingDevice& operator=(const RingDevice&) = delete;

  // Takes the next available chain. false: nothing there.
  virtual bool pop(Chain& chain) = 0;
  // Number of chains that could be popped.
  virtual uint16_t available() = 0;
  // Completes a chain; visible after publish(). In order, chains that are used completely and follow each other between
  // two publish() share one used element.
  void push(uint16_t head, uint32_t len);
  virtual void publish() = 0;
  // Sends a call if the driver wants one. Returns whether it did.
  bool notify();
  // Asks for kicks and looks again: true when something is available, so do not sleep.
  virtual bool armKicks() = 0;
  // Polling backend: no kicks, please.
  virtual void suppressKicks() = 0;
  // With EVENT_IDX: has the driver asked for a call at the very next used element?
  virtual bool callArmed() = 0;
  // Reads the kick eventfd: the number of kicks.
  uint64_t drainKicks();

  // Chains taken and not completed.
  uint32_t held() const { return heldCount_; }
  const std::string& violation() const { return violation_; }

  // Misbehaviour: writes a used element of one descriptor without any check; visible after publish().
  virtual void forge(uint32_t id, uint32_t len) = 0;

 protected:
  RingDevice(const DeviceSetup& setup, uint32_t size) : setup_(setup), size_(size), slots_(size, 0), bytes_(size, 0) {}
  void complain(const std::string& what) {
    if (violation_.empty()) violation_ = what;
  }
  // A chain of this many descriptors is ours from now on.
  void hold(const Chain& chain);
  void addSegment(Chain& chain, uint64_t label, uint32_t len, uint16_t flags);
  // The same for a table of descriptors. `chained`: its entries name each other by NEXT, as in a split ring.
  void addTable(Chain& chain, uint64_t label, uint32_t len, uint16_t flags, bool chained);
  // Writes a used element at `place` (counted from the start of the ring's life).
  virtual void write(uint64_t place, uint16_t head, uint32_t len) = 0;
  // May the driver be called for what was published since the last question?
  virtual bool callWanted() = 0;

  DeviceSetup setup_;
  uint32_t size_;
  // Used elements (split) or slots (packed) so far.
  uint64_t usedPlace_ = 0;
  // Set by publish(): a batch ends there.
  bool batchOpen_ = false;
  uint32_t heldSlots_ = 0;

 private:
  // How far a completed chain moves the used place.
  virtual uint64_t step(uint16_t slots) const = 0;

  uint64_t batchPlace_ = 0;
  uint32_t heldCount_ = 0;
  // By head: descriptors of the chain that we hold, 0 = none; and its bytes.
  std::vector<uint16_t> slots_;
  std::vector<uint32_t> bytes_;
  // Heads in the order in which they were popped; only in order.
  std::vector<uint16_t> order_;
  size_t orderDone_ = 0;
  std::string violation_;
};

class SplitDevice final : public RingDevice {
 public:
  // `start`: what both indices of the ring begin with.
  SplitDevice(const Vring& ring, const DeviceSetup& setup, uint16_t start = 0)
      : RingDevice(setup, ring.size), ring_(ring), lastAvail_(start), published_(start), callChecked_(start) {
    usedPlace_ = start;
  }
  bool pop(Chain& chain) override;
  uint16_t available() override { return static_cast<uint16_t>(loadAcquire(ring_.availIdx) - lastAvail_); }
  void publish() override;
  bool armKicks() override;
  void suppressKicks() override;
  bool callArmed() override;
  void forge(uint32_t id, uint32_t len) override;
  // Another used.idx than what publish() writes.
  void forgeIndex(uint16_t value) { storeRelease(ring_.usedIdx, value); }

 private:
  void write(uint64_t place, uint16_t head, uint32_t len) override;
  bool callWanted() override;
  uint64_t step(uint16_t) const override { return 1; }

  Vring ring_;
  uint16_t lastAvail_;
  uint16_t published_;
  uint16_t callChecked_;
  // IN_ORDER: the descriptor that the next chain must begin with.
  uint16_t nextDescriptor_ = 0;
};

// Counts places from the start of the ring's life; slot and wrap counter follow from them.
class PackedDevice final : public RingDevice {
 public:
  PackedDevice(const PackedRing& ring, const DeviceSetup& setup) : RingDevice(setup, ring.size), ring_(ring) {}
  bool pop(Chain& chain) override;
  uint16_t available() override;
  void publish() override;
  bool armKicks() override;
  void suppressKicks() override;
  bool callArmed() override;
  void forge(uint32_t id, uint32_t len) override;
  // Flags at the next used place as they should never be.
  void forgeFlags(bool avail, bool used);

 private:
  bool wrapAt(uint64_t place) const { return place / size_ % 2 == 0; }
  uint16_t slotAt(uint64_t place) const { return static_cast<uint16_t>(place % size_); }
  uint16_t eventAt(uint64_t place) const { return static_cast<uint16_t>(slotAt(place) | (wrapAt(place) ? 0x8000 : 0)); }
  bool availableAt(uint64_t place) const;
  void write(uint64_t place, uint16_t head, uint32_t len) override;
  bool callWanted() override;
  uint64_t step(uint16_t slots) const override { return slots; }

  PackedRing ring_;
  uint64_t availPlace_ = 0;
  // Places whose flags publish() has to write.
  std::vector<uint64_t> unpublished_;
  uint64_t callChecked_ = 0;
  uint64_t published_ = 0;
};

}  // namespace vu::test
