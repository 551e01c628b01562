#include "port.h"

#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <sys/ioctl.h>

namespace vu {

Result<std::shared_ptr<Port>> Port::create(std::vector<UniqueFd> taps, std::vector<std::shared_ptr<Pump>> pumps,
                                           std::function<void(PortEventKind, const char*)> listener) noexcept {
  if (taps.empty() || pumps.empty()) return Fault{EINVAL, "port without TAP queues or pumps"};
  for (const UniqueFd& tap : taps) {
    const int flags = ::fcntl(tap.get(), F_GETFL);
    if (flags < 0 || ::fcntl(tap.get(), F_SETFL, flags | O_NONBLOCK) != 0) return lastFault("fcntl TAP queue");
  }
  std::shared_ptr<Port> port(new Port());
  port->pumps_ = std::move(pumps);
  port->shared_ = std::make_shared<PortShared>();
  port->shared_->listener = std::move(listener);
  for (uint32_t i = 0; i < taps.size(); ++i) {
    port->pairs_.push_back(std::make_shared<QueuePair>(std::move(taps[i]), i, port->shared_));
  }
  port->detached_.resize(port->pairs_.size(), false);
  port->onEveryPair([](Pump& pump, QueuePair& pair) { pump.attach(pair); }, nullptr);
  return port;
}

// Runs `action` for each pair on its pump; the last one calls `done`.
void Port::onEveryPair(std::function<void(Pump&, QueuePair&)> action, Done done) noexcept {
  struct Barrier {
    std::atomic<size_t> left;
    std::function<void(Pump&, QueuePair&)> action;
    Done done;
  };
  auto barrier = std::make_shared<Barrier>();
  barrier->left = pairs_.size();
  barrier->action = std::move(action);
  barrier->done = std::move(done);
  const auto arrive = [](Barrier& b) {
    if (b.left.fetch_sub(1, std::memory_order_acq_rel) == 1 && b.done) b.done();
  };
  for (uint32_t i = 0; i < pairs_.size(); ++i) {
    Pump* pump = &pumpOf(i);
    const bool posted = pump->post([barrier, arrive, pump, pair = pairs_[i]] {
      barrier->action(*pump, *pair);
      arrive(*barrier);
    });
    // A pump that has ended touches nothing any more.
    if (!posted) arrive(*barrier);
  }
}

Result<void> Port::setOffload(unsigned mask) noexcept {
  if (::ioctl(pairs_[0]->tapFd(), TUNSETOFFLOAD, static_cast<unsigned long>(mask)) != 0) {
    return lastFault("ioctl TUNSETOFFLOAD");
  }
  return {};
}

Result<void> Port::setCarrier(bool up) noexcept {
  int value = up ? 1 : 0;
  if (::ioctl(pairs_[0]->tapFd(), TUNSETCARRIER, &value) != 0) return lastFault("ioctl TUNSETCARRIER");
  return {};
}

// The kernel spreads flows over attached queues only: a queue whose pair is idle would swallow its share.
void Port::steer(uint32_t activePairs) noexcept {
  for (uint32_t i = 0; i < pairs_.size(); ++i) {
    const bool detach = i >= activePairs;
    if (detach == detached_[i]) continue;
    ifreq request{};
    request.ifr_flags = static_cast<short>(detach ? IFF_DETACH_QUEUE : IFF_ATTACH_QUEUE);
    if (::ioctl(pairs_[i]->tapFd(), TUNSETQUEUE, &request) == 0) detached_[i] = detach;
  }
}

Result<void> Port::start(const std::shared_ptr<Session>& session, const StartOptions& options, Done done) noexcept {
  if (state_ == PortState::kClosed) return Fault{ESHUTDOWN, "start of a closed port"};
  if (state_ == PortState::kRunning) return Fault{EBUSY, "start of a running port"};
  if (!session || !session->mapped() || options.activePairs < 1 || options.activePairs > pairs_.size() ||
      options.activePairs > session->options().pairs) {
    return Fault{EINVAL, "start of a port"};
  }
  if (!session->acquire()) return Fault{EBUSY, "session owned by another port"};
  session_ = session;
  session_->keepReceiveBuffers();
  state_ = PortState::kRunning;
  steer(options.activePairs);
  auto shared = std::make_shared<PortShared>();
  shared->listener = shared_->listener;
  onEveryPair(
      [session, shared, options](Pump& pump, QueuePair& pair) {
        pair.stop();
        if (pair.index() >= session->options().pairs) return;
        pair.start(session, shared, options);
        pump.activate(pair);
      },
      std::move(done));
  return {};
}

Result<void> Port::checkPairs(uint32_t pairs, const char* operation) const noexcept {
  if (state_ != PortState::kRunning) return Fault{ESHUTDOWN, operation};
  if (pairs < 1 || pairs > pairs_.size() || pairs > session_->options().pairs) return Fault{EINVAL, operation};
  return {};
}

Result<void> Port::finishTransmit(uint32_t pairs, Done done) noexcept {
  if (auto checked = checkPairs(pairs, "last transmit of queue pairs"); !checked) return checked;
  onEveryPair(
      [pairs](Pump&, QueuePair& pair) {
        if (pair.index() >= pairs) pair.finishTransmit();
      },
      std::move(done));
  return {};
}

Result<void> Port::detachQueues(uint32_t pairs) noexcept {
  if (auto checked = checkPairs(pairs, "detach of TAP queues"); !checked) return checked;
  steer(pairs);
  return {};
}

Result<void> Port::retire(uint32_t pairs, Done done) noexcept {
  if (auto checked = checkPairs(pairs, "end of queue pairs"); !checked) return checked;
  onEveryPair(
      [pairs](Pump&, QueuePair& pair) {
        if (pair.index() >= pairs) pair.retire();
      },
      std::move(done));
  return {};
}

Result<void> Port::enlist(uint32_t pairs, Done done) noexcept {
  if (auto checked = checkPairs(pairs, "start of queue pairs"); !checked) return checked;
  steer(pairs);
  onEveryPair(
      [pairs](Pump& pump, QueuePair& pair) {
        if (pair.index() >= pairs) return;
        pair.enlist();
        pump.activate(pair);
      },
      std::move(done));
  return {};
}

Result<void> Port::useReceiveBuffers(Done done) noexcept {
  if (state_ != PortState::kRunning) return Fault{ESHUTDOWN, "other receive buffers"};
  session_->keepReceiveBuffers();
  std::vector<RxBuffers> buffers;
  for (uint32_t pair = 0; pair < session_->options().pairs; ++pair) buffers.push_back(session_->rxBuffers(pair));
  onEveryPair(
      [buffers = std::move(buffers)](Pump&, QueuePair& pair) {
        if (pair.index() < buffers.size()) pair.useReceiveBuffers(buffers[pair.index()]);
      },
      std::move(done));
  return {};
}

void Port::setRxFilter(std::shared_ptr<const RxFilter> filter, Done done) noexcept {
  onEveryPair([filter = std::move(filter)](Pump&, QueuePair& pair) { pair.setRxFilter(filter); }, std::move(done));
}

void Port::quiesce(Done done) noexcept {
  if (state_ != PortState::kClosed) state_ = PortState::kHeld;
  onEveryPair([](Pump&, QueuePair& pair) { pair.stop(); },
              [session = std::move(session_), done = std::move(done)] {
                if (session) session->release();
                if (done) done();
              });
  session_.reset();
}

Result<void> Port::discard() noexcept {
  if (state_ == PortState::kClosed) return Fault{ESHUTDOWN, "discard on a closed port"};
  if (state_ == PortState::kRunning) return Fault{EBUSY, "discard on a running port"};
  if (state_ == PortState::kDiscarding) return {};
  state_ = PortState::kDiscarding;
  onEveryPair(
      [](Pump& pump, QueuePair& pair) {
        pair.discard();
        pump.activate(pair);
      },
      nullptr);
  return {};
}

void Port::inject(std::vector<uint8_t> frame) noexcept {
  pumpOf(0).post([pair = pairs_[0], frame = std::move(frame)] {
    pair->inject(frame.data(), static_cast<uint32_t>(frame.size()));
  });
}

void Port::close(Done done) noexcept {
  state_ = PortState::kClosed;
  onEveryPair(
      [](Pump& pump, QueuePair& pair) {
        pair.stop();
        pump.detach(pair);
        pair.closeTap();
      },
      [session = std::move(session_), done = std::move(done)] {
        if (session) session->release();
        if (done) done();
      });
  session_.reset();
}

CounterTotals Port::counters() const noexcept {
  CounterTotals totals;
  for (const auto& pair : pairs_) totals.add(pair->counters());
  return totals;
}

}  // namespace vu
