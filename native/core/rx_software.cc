// Receive for a backend that delivers TCP in MTU-sized frames: merged before the write, so that one system call and one
// pass through the pod's stack move up to 64 KiB.
#include "queue_pair.h"

namespace vu {

// Takes the frame just assembled: it joins the run, begins one, or is written after it. Order is kept.
void QueuePair::coalesce() noexcept {
  PumpScratch& scratch = *pump_->scratch;
  Coalescer& run = scratch.run;
  const uint16_t head = frame_.heads[0];
  uint8_t* const buffer = rxBuffer(head);
  const uint32_t bytes = frame_.bytes;
  if (frame_.have != 1 || !parseSegment(VnetHdr::read(buffer, headerBytes_), buffer + headerBytes_,
                                        bytes - headerBytes_, scratch.segment)) {
    flushCoalesced();
    if (state_ == PairState::kRunning) deliver();
    return;
  }
  uint8_t* const frame = buffer + headerBytes_;
  if (run.empty() || !run.append(scratch.segment, frame)) {
    flushCoalesced();
    if (state_ != PairState::kRunning) return;
    run.begin(scratch.segment, frame);
    scratch.runFirst = iovec{buffer, bytes};
    scratch.runBytes = 0;
  }
  scratch.runHeads[run.segments() - 1] = head;
  scratch.runBytes += bytes - headerBytes_;
  if (run.closed()) flushCoalesced();
}

void QueuePair::flushCoalesced() noexcept {
  PumpScratch& scratch = *pump_->scratch;
  Coalescer& run = scratch.run;
  if (run.empty()) return;
  const uint32_t segments = run.segments();
  if (segments == 1) {
    writeTap(&scratch.runFirst, 1, scratch.runBytes, 1);
  } else {
    uint32_t count = 0;
    const iovec* parts = run.finish(headerBytes_, count);
    writeTap(parts, count, scratch.runBytes, segments);
    counters_.event(Event::kGroFrames);
    counters_.event(Event::kGroMerged, segments);
  }
  run.clear();
  for (uint32_t i = 0; i < segments && state_ == PairState::kRunning; ++i) repost(scratch.runHeads[i]);
}

// The pair stopped within a burst: the pump's work space is another pair's next.
void QueuePair::abandonCoalesced() noexcept {
  counters_.drop(Drop::kRxLost, pump_->scratch->run.segments());
  pump_->scratch->run.clear();
}

}  // namespace vu
