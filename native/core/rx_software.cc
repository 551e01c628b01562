// Receive of frames as they were on a wire: TCP segments and UDP datagrams are merged before the write, so that one
// system call and one pass through the pod's stack move up to 64 KiB. Several flows side by side; order is kept within
// a flow.
//
// Buffers go back together, when all that is held is written: a merged frame may hold the first and the last of them.
#include "queue_pair.h"

namespace vu {

// Takes the frame just assembled: it joins a run, begins one, or is written behind what it must not overtake.
void QueuePair::coalesce() noexcept {
  PumpScratch& scratch = *pump_->scratch;
  scratch.flows.add(scratch.parts.data(), frame_.have, headerBytes_,
                    [this](const CoalescedFrame& frame) noexcept { writeCoalesced(frame); });
}

void QueuePair::writeCoalesced(const CoalescedFrame& frame) noexcept {
  if (state_ != PairState::kRunning) {
    counters_.drop(Drop::kRxLost, frame.frames);
    return;
  }
  queueWrite(frame);
  if (frame.frames == 1) return;
  counters_.event(Event::kGroFrames);
  counters_.event(Event::kGroMerged, frame.frames);
}

void QueuePair::flushCoalesced() noexcept {
  PumpScratch& scratch = *pump_->scratch;
  scratch.flows.flush(headerBytes_, [this](const CoalescedFrame& frame) noexcept { writeCoalesced(frame); });
}

}  // namespace vu
