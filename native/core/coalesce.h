// Software receive coalescing: consecutive TCP segments, or UDP datagrams of one length, of one flow become one frame
// with a segmentation header, which the TAP takes as if the backend had GUEST_TSO or GUEST_USO. Pure; payload is never
// copied. A socket gets the datagrams one by one, as they were sent: its kernel cuts them apart.
//
// Coalescer is one run of segments; FlowTable keeps several runs side by side and knows whose buffers they hold.
#pragma once

#include <sys/uio.h>

#include <array>
#include <cstdint>

#include "frame_fields.h"
#include "vnet_hdr.h"

namespace vu {

// A segment that may be merged, taken apart. Its headers are copied: the frame lies in memory that the backend can
// change.
struct Segment {
  // Ethernet with two VLAN tags, IPv6 without extension headers, TCP with all options: 122 bytes.
  static constexpr uint32_t kHeaderRoom = 128;
  std::array<uint8_t, kHeaderRoom> headers{};
  uint16_t headerBytes = 0;
  uint16_t l3 = 0;
  uint16_t l4 = 0;
  // kTcp or kUdp.
  uint8_t protocol = 0;
  bool ipv6 = false;
  bool push = false;
  // May be fragmented on its way (no DF): its identification means something, and must count upwards within a run.
  bool mayFragment = false;
  uint16_t ipId = 0;
  // TCP.
  uint32_t seq = 0;
  uint32_t payloadBytes = 0;
};

enum class SegmentKind : uint8_t {
  kData,   // may be merged; every field of the segment is set
  kFlow,   // not to be merged: protocol, addresses and ports are known, so that it stays behind the data of its flow
  kOther,  // anything else, TCP and UDP in disguise (IP options, fragments, extension headers) included
};

// `spans`: Ethernet frame in any number of pieces, at most 64 KiB and headers. kData: plain data (TCP: ACK,
// perhaps PSH; UDP: to one pod, with a checksum) of one unfragmented packet without padding, whose checksum is right or
// vouched for by the header.
SegmentKind classifySegment(const VnetHdr& header, const iovec* spans, uint32_t count, Segment& segment) noexcept;

class Coalescer {
 public:
  // What the kernel takes of datagrams (UDP_MAX_SEGMENTS before 6.9, UDP_GRO_CNT_MAX).
  static constexpr uint32_t kMaxSegments = 64;
  // Pieces of a merged frame: headers, then payload in two buffers a segment.
  static constexpr uint32_t kMaxParts = 2 * kMaxSegments + 1;
  // Ethernet frame. Below what DPDK's vhost can take in one buffer, in case the pod forwards it
  // (virtio_dev_extbuf_alloc).
  static constexpr uint32_t kMaxFrame = 65000;

  uint32_t segments() const noexcept { return segments_; }
  bool empty() const noexcept { return segments_ == 0; }
  // Nothing more may follow: a short segment or PSH was last, or it is full.
  bool closed() const noexcept { return closed_; }
  const Segment& first() const noexcept { return first_; }

  // Starts a run with a segment of at most kMaxParts - 1 spans. Only when empty.
  void begin(const Segment& segment, const iovec* spans, uint32_t count) noexcept;
  // false: not the next segment of this run; nothing changed.
  bool append(const Segment& segment, const iovec* spans, uint32_t count) noexcept;
  // The headers of the merged frame, then the payload slices. parts[0] is in this object. Valid until clear().
  // For a run of at least two.
  const iovec* finish(uint32_t vnetBytes, uint32_t& count) noexcept;
  void clear() noexcept {
    segments_ = 0;
    closed_ = false;
  }

 private:
  bool follows(const Segment& segment) const noexcept;
  void add(const Segment& segment, const iovec* spans, uint32_t count) noexcept;

  Segment first_;
  uint32_t segments_ = 0;
  uint32_t partCount_ = 1;
  bool closed_ = false;
  bool push_ = false;
  uint32_t payloadBytes_ = 0;
  std::array<uint8_t, sizeof(VnetHdr) + Segment::kHeaderRoom> merged_{};
  std::array<iovec, kMaxParts> parts_{};
};

// What one write to the TAP takes.
struct CoalescedFrame {
  // vnet header first.
  const iovec* parts = nullptr;
  uint32_t partCount = 0;
  // Received frames in it; 1: as it came, untouched.
  uint32_t frames = 0;
  // Of the received frames, without vnet headers.
  uint64_t bytes = 0;
  // UDP: nothing holds the sender back when the pod does not read.
  bool datagrams = false;
};

// The runs of one burst. Order is kept within a flow, not between flows. Whoever adds frames flushes at the end of the
// burst: nothing waits for a timer.
class FlowTable {
 public:
  // `mergesDatagrams`: UDP, too.
  explicit FlowTable(bool mergesDatagrams) noexcept : mergesDatagrams_(mergesDatagrams) {}

  static constexpr uint32_t kFlows = 4;
  // Buffers of a frame that takes part: 9000 bytes in 2 KiB ones, and room. One with more goes through as it came.
  static constexpr uint32_t kMaxSpans = 8;

  // `spans`: the buffers of a received frame, the vnet header (`vnetBytes`: 10 or 12) at the start of the first one.
  // The array is borrowed for the call, the buffers until `sink(const CoalescedFrame&)` was called with the frame that
  // they are in, which it is once. The sink must not call this object.
  template <typename Sink>
  void add(const iovec* spans, uint32_t count, uint32_t vnetBytes, Sink&& sink) noexcept {
    Run* run = nullptr;
    switch (admit(spans, count, vnetBytes, run)) {
      case Verdict::kJoined:
        break;
      case Verdict::kNew:
        if (!run->merged.empty()) emit(*run, vnetBytes, sink);
        begin(*run, spans, count);
        break;
      case Verdict::kPassBehindRun:
        emit(*run, vnetBytes, sink);
        pass(spans, count, vnetBytes, segment_.protocol == kUdp, sink);
        return;
      case Verdict::kPassBehindAll:
        flush(vnetBytes, sink);
        pass(spans, count, vnetBytes, false, sink);
        return;
      case Verdict::kPass:
        pass(spans, count, vnetBytes, segment_.protocol == kUdp, sink);
        return;
    }
    run->bytes += frameBytes_;
    if (run->merged.closed()) emit(*run, vnetBytes, sink);
  }

  template <typename Sink>
  void flush(uint32_t vnetBytes, Sink&& sink) noexcept {
    for (Run& run : runs_) {
      if (!run.merged.empty()) emit(run, vnetBytes, sink);
    }
  }

  // Received frames that no sink has seen yet.
  uint32_t pending() const noexcept;
  // Forgets them: their buffers are lost with the session.
  void clear() noexcept;

 private:
  struct Run {
    Coalescer merged;
    // The first frame as it came: what is written when nothing followed.
    std::array<iovec, kMaxSpans> firstSpans{};
    uint32_t firstCount = 0;
    uint64_t bytes = 0;
  };
  enum class Verdict : uint8_t { kJoined, kNew, kPass, kPassBehindRun, kPassBehindAll };

  Verdict admit(const iovec* spans, uint32_t count, uint32_t vnetBytes, Run*& run) noexcept;
  void begin(Run& run, const iovec* spans, uint32_t count) noexcept;
  CoalescedFrame finish(Run& run, uint32_t vnetBytes) noexcept;

  template <typename Sink>
  void emit(Run& run, uint32_t vnetBytes, Sink&& sink) noexcept {
    const CoalescedFrame frame = finish(run, vnetBytes);
    run.merged.clear();
    run.bytes = 0;
    sink(frame);
  }
  template <typename Sink>
  static void pass(const iovec* spans, uint32_t count, uint32_t vnetBytes, bool datagram, Sink&& sink) noexcept {
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < count; ++i) bytes += spans[i].iov_len;
    sink(CoalescedFrame{spans, count, 1, bytes > vnetBytes ? bytes - vnetBytes : 0, datagram});
  }

  std::array<Run, kFlows> runs_;
  const bool mergesDatagrams_;
  // The run that makes room for the next flow.
  uint32_t victim_ = 0;
  // The frame being added.
  Segment segment_;
  std::array<iovec, kMaxSpans> frame_{};
  uint64_t frameBytes_ = 0;
};

}  // namespace vu
