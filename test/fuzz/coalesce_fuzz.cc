// The fuzzer is a backend: frames of a few flows, almost right, in buffers cut anywhere. Whatever is merged has the
// payload of the frames it was made of, in their order; the rest comes out as it went in; every frame comes out once.
//
//   clang++ -fsanitize=fuzzer,address,undefined; the input is a list of operations.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <map>
#include <memory>
#include <vector>

#include "../native/packet_reference.h"
#include "coalesce.h"
#include "input.h"

namespace {

using namespace vu;
using test::reference::Bytes;
using test::reference::Checksum;
using test::reference::Packet;
using vu::test::Input;

constexpr uint32_t kFlows = 6;

[[noreturn]] void bug(const char* what) {
  std::fprintf(stderr, "invariant broken: %s\n", what);
  std::abort();
}

// The pump around the table, and its books.
class Burst {
 public:
  void add(const Bytes& whole, const std::vector<size_t>& cuts) {
    std::vector<iovec> spans;
    size_t start = 0;
    for (size_t i = 0; i <= cuts.size(); ++i) {
      const size_t end = i < cuts.size() ? std::clamp(cuts[i], start, whole.size()) : whole.size();
      memory_.emplace_back(new uint8_t[end - start]);
      std::copy_n(whole.data() + start, end - start, memory_.back().get());
      spans.push_back(iovec{memory_.back().get(), end - start});
      frameAt_[memory_.back().get()] = frames_.size();
      start = end;
    }
    frames_.push_back(whole);
    table_->add(spans.data(), static_cast<uint32_t>(spans.size()), 12, sink());
  }
  void flush() {
    table_->flush(12, sink());
    if (table_->pending() != 0) bug("frames kept back by flush");
  }
  void finish() {
    flush();
    if (std::count(written_.begin(), written_.end(), true) != static_cast<long>(frames_.size())) bug("frames lost");
  }

 private:
  struct Sink {
    Burst* burst;
    void operator()(const CoalescedFrame& frame) const { burst->take(frame); }
  };
  Sink sink() { return Sink{this}; }

  void take(const CoalescedFrame& frame) {
    if (frame.frames == 0 || frame.frames > Coalescer::kMaxSegments) bug("number of frames");
    if (frame.partCount > Coalescer::kMaxParts && frame.frames > 1) bug("number of parts");
    Bytes out;
    std::vector<size_t> members;
    for (uint32_t i = 0; i < frame.partCount; ++i) {
      const auto* start = static_cast<const uint8_t*>(frame.parts[i].iov_base);
      out.insert(out.end(), start, start + frame.parts[i].iov_len);
      if (frame.frames > 1 && i == 0) continue;  // The header, made anew.
      const size_t member = std::prev(frameAt_.upper_bound(start))->second;
      if (!members.empty() && members.back() > member) bug("order of frames");
      if (members.empty() || members.back() != member) members.push_back(member);
    }
    if (members.size() != frame.frames) bug("frames of a merged frame");
    written_.resize(frames_.size());
    for (const size_t member : members) {
      if (written_[member]) bug("frame written twice");
      written_[member] = true;
    }
    if (frame.frames == 1) {
      if (out != frames_[members[0]]) bug("a frame that was not merged changed");
      return;
    }
    const VnetHdr header = VnetHdr::read(out.data(), 12);
    if (header.flags != kHdrNeedsCsum || header.gsoSize == 0) bug("vnet header");
    const bool udp = header.gsoType == kGsoUdpL4;
    if (header.csumOffset != (udp ? 6 : 16)) bug("place of the checksum");
    if (frame.datagrams != udp) bug("kind of frame");
    if (out.size() > 12 + Coalescer::kMaxFrame || 12U + header.hdrLen >= out.size()) bug("frame length");
    Bytes payload;
    for (const size_t member : members) {
      const Bytes& whole = frames_[member];
      if (whole.size() <= 12U + header.hdrLen) bug("merged a frame without payload");
      payload.insert(payload.end(), whole.begin() + 12 + header.hdrLen, whole.end());
      const size_t bytes = whole.size() - 12 - header.hdrLen;
      if (member != members.back() && bytes != header.gsoSize) bug("segment of another size");
      if (bytes > header.gsoSize) bug("segment larger than the first");
    }
    if (Bytes(out.begin() + 12 + header.hdrLen, out.end()) != payload) bug("payload");
    // Headers: those of the first, but for lengths, PSH and checksums.
    const Bytes& first = frames_[members[0]];
    const size_t l4 = 12U + header.csumStart;
    size_t type = 12 + 12;
    while (test::reference::get16(first, type) == 0x8100 || test::reference::get16(first, type) == 0x88a8) type += 4;
    const bool ipv6 = test::reference::get16(first, type) == 0x86dd;
    if (!udp && ipv6 != (header.gsoType == kGsoTcp6)) bug("kind of segmentation");
    const size_t l3 = l4 - (ipv6 ? 40 : 20);
    const size_t length = out.size() - l3 - (ipv6 ? 40 : 0);
    if (test::reference::get16(out, l3 + (ipv6 ? 4 : 2)) != length) bug("IP length");
    if (!ipv6 && test::reference::sum(test::reference::cut(out, l3, 20)) != 0xffff) bug("IP checksum");
    Bytes pseudo = test::reference::cut(out, l3 + (ipv6 ? 8 : 12), ipv6 ? 32 : 8);
    test::reference::append32(pseudo, static_cast<uint32_t>(out.size() - l4));
    test::reference::append32(pseudo, udp ? 17 : 6);
    const size_t field = l4 + header.csumOffset;
    if (test::reference::sum(pseudo) != test::reference::get16(out, field)) bug("pseudo-header checksum");
    if (udp && test::reference::get16(out, l4 + 4) != out.size() - l4) bug("UDP length");
    for (size_t i = 12; i < 12U + header.hdrLen; ++i) {
      const bool ipChanges =
          ipv6 ? i - l3 == 4 || i - l3 == 5 : i - l3 == 2 || i - l3 == 3 || i - l3 == 10 || i - l3 == 11;
      if (ipChanges || i == field || i == field + 1 || (udp && (i == l4 + 4 || i == l4 + 5))) continue;
      const uint8_t ignored = !udp && i == l4 + 13 ? 0x08 : 0;
      if (((out[i] ^ first[i]) & ~ignored) != 0) bug("header");
    }
  }

  std::unique_ptr<FlowTable> table_ = std::make_unique<FlowTable>(true);
  std::vector<std::unique_ptr<uint8_t[]>> memory_;
  std::vector<Bytes> frames_;
  // By the start of each buffer.
  std::map<const uint8_t*, size_t> frameAt_;
  std::vector<bool> written_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input input(data, size);
  std::vector<Packet> flows;
  for (uint32_t i = 0; i < kFlows; ++i) {
    Packet packet;
    packet.ipv6 = (i & 1) != 0;
    if ((i & 2) != 0) packet.vlans = {7};
    packet.fragment = i == 2 ? 0 : 0x4000;
    packet.sourcePort = static_cast<uint16_t>(i);
    packet.tcpOptions = Bytes(i * 4, 1);
    packet.udp = i >= 4;
    flows.push_back(packet);
  }
  Burst burst;
  for (int frames = 0; !input.empty() && frames < 300; ++frames) {
    const uint8_t kind = input.byte();
    Packet& flow = flows[(kind & 7) % kFlows];
    Packet packet = flow;
    const size_t bytes = (kind & 8) != 0 ? input.byte() * 37U : 1000;
    packet.payload.assign(bytes, static_cast<uint8_t>(frames));
    VnetHdr header;
    std::vector<size_t> cuts;
    Checksum checksum = Checksum::kComplete;
    if ((kind & 16) != 0) {
      for (uint8_t cut = input.byte() % 10; cut > 0; --cut) cuts.push_back(input.byte() * 2U);
      std::sort(cuts.begin(), cuts.end());
    }
    if ((kind & 32) != 0) {
      const uint8_t change = input.byte();
      packet.flags = static_cast<uint8_t>(packet.flags | (change & 0x0f));
      if ((change & 16) != 0) packet.seq += input.byte();
      if ((change & 32) != 0) checksum = Checksum::kPartial;
      if ((change & 64) != 0) header = packet.partialHeader();
      if ((change & 128) != 0) ++flow.ack;
    }
    flow.seq += static_cast<uint32_t>(bytes);
    ++flow.id;
    Bytes whole = test::reference::withHeader(header, packet.build(checksum));
    if ((kind & 64) != 0) {
      for (uint8_t flips = input.byte() % 4; flips > 0; --flips) whole[input.byte() % whole.size()] ^= input.byte();
      if (input.byte() % 8 == 0) whole.resize(std::min<size_t>(whole.size(), input.byte()));
    }
    burst.add(whole, cuts);
    if ((kind & 128) != 0 && input.byte() % 8 == 0) burst.flush();
  }
  burst.finish();
  return 0;
}
