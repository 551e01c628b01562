// The fuzzer is a pod that writes raw frames with any vnet header. What is accepted is cut into segments that cover the
// payload once, fit the room, and carry right lengths and checksums; what is not is refused for a reason.
//
//   clang++ -fsanitize=fuzzer,address,undefined; the first byte chooses how the rest becomes a frame.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>

#include "../native/packet_reference.h"
#include "checksum.h"
#include "segment.h"

namespace {

using namespace vu;
using test::reference::Bytes;

[[noreturn]] void bug(const char* what) {
  std::fprintf(stderr, "invariant broken: %s\n", what);
  std::abort();
}

// A frame that is right but for up to three bytes of it or of its vnet header; payload by length only.
Bytes almostRight(const uint8_t* data, size_t size) {
  if (size < 24) return Bytes(12);
  std::mt19937 random(data[0]);
  const size_t payload = 1 + static_cast<size_t>(data[1] | data[2] << 8) % 64000;
  const test::reference::Packet packet = test::reference::randomPacket(random, payload, (data[3] & 1) != 0);
  Bytes whole = test::reference::withHeader(packet.gsoHeader(static_cast<uint16_t>(data[4] | data[5] << 8)),
                                            packet.build(test::reference::Checksum::kPartial));
  for (size_t i = 6; i + 1 < 6 + 2 * std::min<size_t>(data[3] >> 6, 3); i += 2)
    whole[data[i] % whole.size()] = data[i + 1];
  return whole;
}

void check(const SegmentPlan& plan, const uint8_t* frame, size_t bytes, uint32_t vnetBytes, bool checksum) {
  if (plan.count == 0 || plan.count > kMaxSegmentsOfFrame) bug("number of segments");
  uint32_t next = plan.headerBytes;
  for (uint32_t i = 0; i < plan.count; ++i) {
    const std::unique_ptr<uint8_t[]> slab(new uint8_t[kSegmentHeaderRoom]);
    const SegmentPart part = writeSegment(plan, i, frame, vnetBytes, checksum, slab.get());
    if (part.slabBytes != vnetBytes + plan.headerBytes || part.slabBytes > kSegmentHeaderRoom) bug("slab");
    if (part.sliceOffset != next || part.sliceBytes == 0 || part.sliceBytes > plan.mss) bug("slice");
    next += part.sliceBytes;
    if (next > bytes) bug("slice leaves the frame");
    // Long frames: their first and last segments say enough.
    if (i > 3 && i + 3 < plan.count) continue;
    Bytes segment(slab.get() + vnetBytes, slab.get() + part.slabBytes);
    segment.insert(segment.end(), frame + part.sliceOffset, frame + part.sliceOffset + part.sliceBytes);
    const size_t l3 = plan.l3;
    const size_t l4 = plan.l4;
    const size_t length = test::reference::get16(segment, l3 + (plan.ipv6 ? 4U : 2U));
    if (l3 + length + (plan.ipv6 ? 40U : 0U) != segment.size()) bug("IP length");
    if (!plan.ipv6 && test::reference::sum(test::reference::cut(segment, l3, l4 - l3)) != 0xffff) bug("IP checksum");
    // Behind a routing header the sender's own sum is taken, right or wrong.
    if (plan.ipv6 && l4 != l3 + 40) continue;
    const size_t addresses = plan.ipv6 ? 32 : 8;
    Bytes summed = test::reference::cut(segment, l3 + (plan.ipv6 ? 8U : 12U), addresses);
    test::reference::append32(summed, static_cast<uint32_t>(segment.size() - l4));
    test::reference::append32(summed, 6);
    if (checksum) {
      test::reference::append(summed, test::reference::cut(segment, l4, segment.size() - l4));
      if (test::reference::sum(summed) != 0xffff) bug("TCP checksum");
    } else if (test::reference::sum(summed) != test::reference::get16(segment, l4 + 16)) {
      bug("pseudo-header checksum");
    }
  }
  if (next != bytes) bug("payload left over");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 13) return 0;
  const uint8_t choice = data[0];
  const uint32_t vnetBytes = (choice & 1) != 0 ? 10 : 12;
  const Bytes whole = (choice & 2) != 0 ? Bytes(data + 1, data + size) : almostRight(data + 1, size - 1);
  const VnetHdr header = VnetHdr::read(whole.data(), 12);
  // Of exact size, so that a byte read behind it is seen.
  const size_t bytes = whole.size() - 12;
  const std::unique_ptr<uint8_t[]> frame(new uint8_t[bytes]);
  std::copy(whole.begin() + 12, whole.end(), frame.get());

  SegmentPlan plan;
  const bool planned = planSegments(frame.get(), static_cast<uint32_t>(bytes), header, plan);
  if (planned != (plan.refusal == SegmentRefusal::kNone)) bug("refused without a reason");
  if (planned) check(plan, frame.get(), bytes, vnetBytes, (choice & 4) != 0);

  const std::unique_ptr<uint8_t[]> copy(new uint8_t[bytes]);
  std::copy_n(frame.get(), bytes, copy.get());
  if (completeChecksum(copy.get(), bytes, header.csumStart, header.csumOffset) !=
      (size_t{header.csumStart} + header.csumOffset + 2 <= bytes)) {
    bug("checksum field outside the frame");
  }
  return 0;
}
