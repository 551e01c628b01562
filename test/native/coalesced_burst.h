// A pump's burst around a FlowTable: frames in buffers of any cut, and what was written of them.
#pragma once

#include <gtest/gtest.h>

#include <deque>
#include <map>
#include <memory>

#include "coalesce.h"
#include "packet_reference.h"

namespace vu::test {

using reference::Bytes;
using reference::Checksum;
using reference::Packet;

inline constexpr uint8_t kPsh = 0x08;

// Buffers that a frame lies in; each an allocation of its own size, so that a sanitizer sees a byte too many.
struct Buffers {
  // Cut after `cuts` bytes, ascending; vnet header included.
  Buffers(const Bytes& whole, const std::vector<size_t>& cuts) {
    size_t start = 0;
    for (size_t i = 0; i <= cuts.size(); ++i) {
      const size_t end = i < cuts.size() ? std::min(cuts[i], whole.size()) : whole.size();
      memory.emplace_back(new uint8_t[end - start]);
      std::copy(whole.begin() + static_cast<long>(start), whole.begin() + static_cast<long>(end), memory.back().get());
      spans.push_back(iovec{memory.back().get(), end - start});
      start = end;
    }
  }
  std::vector<std::unique_ptr<uint8_t[]>> memory;
  std::vector<iovec> spans;
};

struct Written {
  Bytes bytes;
  uint32_t frames;
  uint32_t parts;
  uint64_t counted;
  bool datagrams;
  // Numbers of the received frames whose buffers it lies in, in its order.
  std::vector<uint32_t> members;
};

// A pump's burst.
class Burst {
 public:
  explicit Burst(bool mergesDatagrams = true) : table(std::make_unique<FlowTable>(mergesDatagrams)) {}

  // Returns the number of the frame.
  uint32_t add(const VnetHdr& header, const Bytes& frame, const std::vector<size_t>& cuts = {}) {
    return addRaw(reference::withHeader(header, frame), cuts);
  }
  uint32_t addRaw(const Bytes& whole, const std::vector<size_t>& cuts = {}) {
    const Buffers& buffers = received.emplace_back(whole, cuts);
    const auto number = static_cast<uint32_t>(received.size() - 1);
    for (const iovec& span : buffers.spans) frameAt_[span.iov_base] = number;
    table->add(buffers.spans.data(), static_cast<uint32_t>(buffers.spans.size()), 12,
               [this](const CoalescedFrame& frame) { take(frame); });
    return number;
  }
  uint32_t add(const Packet& packet, Checksum checksum = Checksum::kComplete) {
    return add(checksum == Checksum::kComplete ? VnetHdr{} : packet.partialHeader(), packet.build(checksum));
  }
  void flush() {
    table->flush(12, [this](const CoalescedFrame& frame) { take(frame); });
  }

  std::unique_ptr<FlowTable> table;
  std::deque<Buffers> received;
  std::vector<Written> written;

 private:
  void take(const CoalescedFrame& frame) {
    Written out{{}, frame.frames, frame.partCount, frame.bytes, frame.datagrams, {}};
    for (uint32_t i = 0; i < frame.partCount; ++i) {
      const auto* start = static_cast<const uint8_t*>(frame.parts[i].iov_base);
      out.bytes.insert(out.bytes.end(), start, start + frame.parts[i].iov_len);
      if (frame.frames > 1 && i == 0) continue;  // The header, made anew.
      const uint32_t number = std::prev(frameAt_.upper_bound(start))->second;
      if (out.members.empty() || out.members.back() != number) out.members.push_back(number);
    }
    written.push_back(out);
  }

  // By the start of each buffer.
  std::map<const void*, uint32_t> frameAt_;
};

// `count` segments of one stream.
inline std::vector<Packet> stream(Packet packet, size_t mss, size_t count, size_t lastBytes = 0) {
  std::mt19937 random(21);
  const size_t total = mss * count - (lastBytes != 0 ? mss - lastBytes : 0);
  packet.payload = reference::randomBytes(random, total);
  return packet.segments(static_cast<uint16_t>(mss));
}

inline Bytes mergedBytes(Packet whole, uint16_t gsoSize) {
  VnetHdr header = whole.gsoHeader(gsoSize);
  header.numBuffers = 1;
  return reference::withHeader(header, whole.build(Checksum::kPartial));
}

inline Packet join(const std::vector<Packet>& parts) {
  Packet whole = parts.front();
  for (size_t i = 1; i < parts.size(); ++i) reference::append(whole.payload, parts[i].payload);
  whole.flags = static_cast<uint8_t>(whole.flags | parts.back().flags);
  return whole;
}

}  // namespace vu::test
