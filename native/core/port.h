// A pod's TAP as the pumps see it, with or without a session. Made, commanded and destroyed on one (control) thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "counters.h"
#include "pump.h"
#include "queue_pair.h"
#include "result.h"
#include "session.h"

namespace vu {

enum class PortState : uint8_t { kHeld, kRunning, kDiscarding, kClosed };

class Port {
 public:
  // Called on a pump thread when every owner has done the command.
  using Done = std::function<void()>;

  // Pair i moves taps[i] on pumps[i % pumps.size()]. The listener is called on pump threads.
  static Result<std::shared_ptr<Port>> create(std::vector<UniqueFd> taps, std::vector<std::shared_ptr<Pump>> pumps,
                                              std::function<void(PortEventKind, const char*)> listener) noexcept;
  // Closed before, or with pumps that have ended.
  ~Port() = default;
  Port(const Port&) = delete;
  Port& operator=(const Port&) = delete;

  PortState state() const noexcept { return state_; }
  uint32_t pairCount() const noexcept { return static_cast<uint32_t>(pairs_.size()); }

  // On the TAP; all queues share these.
  Result<void> setOffload(unsigned mask) noexcept;
  Result<void> setCarrier(bool up) noexcept;

  // Errors: EBUSY (running, or the session is another port's), ESHUTDOWN (closed), EINVAL (pairs that are not there).
  Result<void> start(const std::shared_ptr<Session>& session, const StartOptions& options, Done done) noexcept;
  // Session and port are apart when `done` is called. Never fails; a held port is quiesced already.
  void quiesce(Done done) noexcept;
  // Changes how many pairs carry traffic while running, in steps between which the caller disables or enables rings
  // (VIRTIO_NET_CTRL_MQ). Pairs keep what is in their rings. Errors: EINVAL (none, or more than the session has),
  // ESHUTDOWN (not running).
  //
  // Shrinking, before the rings of pairs `pairs`… are disabled: what waits in their TAP queues is sent.
  Result<void> finishTransmit(uint32_t pairs, Done done) noexcept;
  // Shrinking, when finishTransmit() is done: the kernel steers the pod's flows to the first `pairs` queues.
  Result<void> detachQueues(uint32_t pairs) noexcept;
  // Shrinking, after these rings are disabled: what they received is delivered, then the pairs rest.
  Result<void> retire(uint32_t pairs, Done done) noexcept;
  // Growing, after the rings are enabled; also takes finishTransmit() back.
  Result<void> enlist(uint32_t pairs, Done done) noexcept;

  // The buffers that the session has got last are used from now on. Errors: ESHUTDOWN (not running).
  Result<void> useReceiveBuffers(Done done) noexcept;

  // Which frames of the backend are for the pod, from now on, also in later sessions; nullptr passes all.
  void setRxFilter(std::shared_ptr<const RxFilter> filter, Done done) noexcept;

  // held → discarding. Errors: EBUSY while running, ESHUTDOWN (closed).
  Result<void> discard() noexcept;
  void inject(std::vector<uint8_t> frame) noexcept;
  void close(Done done) noexcept;

  CounterTotals counters() const noexcept;

 private:
  Port() noexcept = default;
  Pump& pumpOf(uint32_t pair) noexcept { return *pumps_[pair % pumps_.size()]; }
  void onEveryPair(std::function<void(Pump&, QueuePair&)> action, Done done) noexcept;
  void steer(uint32_t activePairs) noexcept;
  Result<void> checkPairs(uint32_t pairs, const char* operation) const noexcept;

  PortState state_ = PortState::kHeld;
  std::vector<std::shared_ptr<Pump>> pumps_;
  std::shared_ptr<PortShared> shared_;
  // Shared with commands under way: a pair outlives what its pump still has to do with it.
  std::vector<std::shared_ptr<QueuePair>> pairs_;
  std::shared_ptr<Session> session_;
  std::vector<bool> detached_;
};

}  // namespace vu
