#include "reactor.h"

#include <pthread.h>
#include <signal.h>
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
  if (::epoll_ctl(reactor->epoll_.get(), EPOLL_CTL_ADD, reactor->wake_.get(), &event) != 0) return lastFault("epoll_ctl");
  // Signals belong to the main thread.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  reactor->thread_ = std::thread([raw = reactor.get()] { raw->run(); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  pthread_setname_np(reactor->thread_.native_handle(), "vu-reactor");
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
  if (!thread_.joinable()) return;
  stopping_.store(true);
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = ::write(wake_.get(), &one, sizeof one);
  thread_.join();
  const std::lock_guard lock(mutex_);
  watchers_.clear();
}

void Reactor::run() noexcept {
  std::array<epoll_event, 64> events;
  while (!stopping_.load()) {
    const int count = ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), -1);
    for (int i = 0; i < count; ++i) {
      const epoll_event& event = events[static_cast<size_t>(i)];
      if (event.data.u64 == 0) continue;
      std::shared_ptr<Watcher> watcher;
      {
        const std::lock_guard lock(mutex_);
        const auto found = watchers_.find(event.data.u64);
        if (found != watchers_.end()) watcher = found->second;
      }
      if (watcher) watcher->onReady(event.events);
    }
  }
}

}  // namespace vu
