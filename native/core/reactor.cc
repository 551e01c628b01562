#include "reactor.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <array>

namespace vu {

Result<std::shared_ptr<Reactor>> Reactor::start() noexcept {
  std::shared_ptr<Reactor> reactor(new Reactor());
  reactor->epoll_ = UniqueFd(::epoll_create1(EPOLL_CLOEXEC));
  if (!reactor->epoll_) return lastFault("epoll_create1");
  reactor->wake_ = UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!reactor->wake_) return lastFault("eventfd");
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = 0;
  if (::epoll_ctl(reactor->epoll_.get(), EPOLL_CTL_ADD, reactor->wake_.get(), &event) != 0) {
    return lastFault("epoll_ctl");
  }
  Result<Thread> thread = Thread::start("vu-reactor", [raw = reactor.get()] { raw->run(); });
  if (!thread) return thread.fault();
  reactor->thread_ = std::move(thread).value();
  return reactor;
}

Result<uint64_t> Reactor::add(int fd, uint32_t events, std::shared_ptr<Watcher> watcher) noexcept {
  uint64_t id = 0;
  {
    const std::lock_guard lock(mutex_);
    id = nextId_++;
    watchers_.emplace(id, std::move(watcher));
  }
  epoll_event event{};
  event.events = events | EPOLLONESHOT;
  event.data.u64 = id;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
    const Fault fault = lastFault("epoll_ctl");
    const std::lock_guard lock(mutex_);
    watchers_.erase(id);
    return fault;
  }
  return id;
}

void Reactor::rearm(uint64_t id, int fd, uint32_t events) noexcept {
  epoll_event event{};
  event.events = events | EPOLLONESHOT;
  event.data.u64 = id;
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event);
}

void Reactor::callLater(uint64_t id, std::chrono::milliseconds delay) noexcept {
  {
    const std::lock_guard lock(mutex_);
    timers_.emplace(Clock::now() + delay, id);
  }
  wake();  // it may be waiting for longer
}

void Reactor::remove(uint64_t id, int fd) noexcept {
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
  std::shared_ptr<Watcher> last;  // destroyed outside the lock
  const std::lock_guard lock(mutex_);
  const auto found = watchers_.find(id);
  if (found == watchers_.end()) return;
  last = std::move(found->second);
  watchers_.erase(found);
}

void Reactor::stop() noexcept {
  stopping_.store(true);
  if (wake_) wake();
  thread_.join();
  std::map<uint64_t, std::shared_ptr<Watcher>> last;  // their destructors may come back here: outside the lock
  const std::lock_guard lock(mutex_);
  last.swap(watchers_);
  timers_.clear();
}

void Reactor::wake() noexcept {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = ::write(wake_.get(), &one, sizeof one);
}

std::shared_ptr<Watcher> Reactor::find(uint64_t id) noexcept {
  const std::lock_guard lock(mutex_);
  const auto found = watchers_.find(id);
  return found == watchers_.end() ? nullptr : found->second;
}

int Reactor::timeout() noexcept {
  const std::lock_guard lock(mutex_);
  if (timers_.empty()) return -1;
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(timers_.begin()->first - Clock::now());
  return left.count() > 0 ? static_cast<int>(left.count()) : 0;
}

std::shared_ptr<Watcher> Reactor::takeDue() noexcept {
  const std::lock_guard lock(mutex_);
  const auto now = Clock::now();
  while (!timers_.empty() && timers_.begin()->first <= now) {
    const auto found = watchers_.find(timers_.begin()->second);
    timers_.erase(timers_.begin());
    if (found != watchers_.end()) return found->second;
  }
  return nullptr;
}

void Reactor::run() noexcept {
  std::array<epoll_event, 64> events;
  while (!stopping_.load()) {
    const int count = ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), timeout());
    for (int i = 0; i < count; ++i) {
      const epoll_event& event = events[static_cast<size_t>(i)];
      if (event.data.u64 == 0) {
        uint64_t drained = 0;
        [[maybe_unused]] const ssize_t read = ::read(wake_.get(), &drained, sizeof drained);
      } else if (const std::shared_ptr<Watcher> watcher = find(event.data.u64)) {
        watcher->onReady(event.events);
      }
    }
    while (const std::shared_ptr<Watcher> watcher = takeDue()) watcher->onTimer();
  }
}

}  // namespace vu
