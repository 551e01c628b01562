// A thread of ours: named, with every signal blocked (signals belong to the main thread) but what a fault of its own
// raises and a handler mends (memory_guard.h). Failure to start is a Fault:
// std::thread would end the process when a container's pids limit is reached.
#pragma once

#include <pthread.h>
#include <signal.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "result.h"

namespace vu {

class Thread {
 public:
  // `name`: at most 15 bytes.
  static Result<Thread> start(const char* name, std::function<void()> body) noexcept {
    auto boxed = std::make_unique<Start>(Start{name, std::move(body)});
    sigset_t all, before;
    sigfillset(&all);
    sigdelset(&all, SIGBUS);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    Thread thread;
    const int error = pthread_create(&thread.id_, nullptr, &Thread::run, boxed.get());
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    if (error != 0) return Fault{error, "pthread_create"};
    (void)boxed.release();  // the thread's now
    thread.joinable_ = true;
    return thread;
  }

  Thread() noexcept = default;
  Thread(Thread&& other) noexcept : id_(other.id_), joinable_(std::exchange(other.joinable_, false)) {}
  Thread& operator=(Thread&& other) noexcept {
    if (this != &other) {
      join();
      id_ = other.id_;
      joinable_ = std::exchange(other.joinable_, false);
    }
    return *this;
  }
  Thread(const Thread&) = delete;
  Thread& operator=(const Thread&) = delete;
  ~Thread() { join(); }

  // Waits for its end. Idempotent; not from the thread itself.
  void join() noexcept {
    if (std::exchange(joinable_, false)) pthread_join(id_, nullptr);
  }

  // Nobody waits for its end: it must own everything that it uses.
  void detach() noexcept {
    if (std::exchange(joinable_, false)) pthread_detach(id_);
  }

 private:
  struct Start {
    std::string name;
    std::function<void()> body;
  };

  static void* run(void* raw) noexcept {
    const std::unique_ptr<Start> start(static_cast<Start*>(raw));
    // By the thread itself: for another one glibc opens a file, which a process out of descriptors may lack just then.
    pthread_setname_np(pthread_self(), start->name.c_str());
    start->body();
    return nullptr;
  }

  pthread_t id_{};
  bool joinable_ = false;
};

}  // namespace vu
