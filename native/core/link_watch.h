// Tells when something about the interfaces of a network namespace has changed: links, and, where the kernel tells it
// (Linux 6.14), multicast groups that were joined or left.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>

#include "reactor.h"
#include "result.h"
#include "unique_fd.h"

namespace vu {

// A netlink socket of the calling thread's namespace, subscribed; it keeps the namespace alive. `groups` becomes false
// where the kernel does not tell of multicast groups.
Result<UniqueFd> openLinkEvents(bool* groups) noexcept;

class LinkWatch : public Watcher, public std::enable_shared_from_this<LinkWatch> {
 public:
  // `onChange` is called on the reactor's thread, once until listen() is called again: a pod that changes its links in
  // a loop costs no more than its owner asks for.
  static Result<std::shared_ptr<LinkWatch>> open(std::shared_ptr<Reactor> reactor, UniqueFd events,
                                                 std::function<void()> onChange) noexcept;

  // From any thread. What came before is forgotten: the caller looks at the links afterwards.
  void listen() noexcept;
  // No onChange starts after it; one that runs may still be running. Idempotent.
  void close() noexcept;

  // THREAD: reactor
  void onReady(uint32_t events) noexcept override;

 private:
  LinkWatch(std::shared_ptr<Reactor> reactor, UniqueFd events, std::function<void()> onChange) noexcept
      : reactor_(std::move(reactor)), events_(std::move(events)), onChange_(std::move(onChange)) {}

  const std::shared_ptr<Reactor> reactor_;
  std::mutex mutex_;
  // LOCKS: mutex_, for the two below.
  UniqueFd events_;
  uint64_t id_ = 0;
  const std::function<void()> onChange_;
};

}  // namespace vu
