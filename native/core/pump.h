// One native thread that moves frames for the queue pairs assigned to it.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "kicker.h"
#include "queue_pair.h"
#include "result.h"
#include "thread.h"
#include "unique_fd.h"

namespace vu {

class Pump {
 public:
  // `name` is cut to 15 bytes. `spinUs`: adaptive spin after the last work, 0 never spins. Errors: EMFILE, EAGAIN (no
  // more threads), …
  static Result<std::shared_ptr<Pump>> create(const std::string& name, uint32_t spinUs) noexcept;
  ~Pump();
  Pump(const Pump&) = delete;
  Pump& operator=(const Pump&) = delete;

  // Runs `command` on the pump thread, in order. false: the pump has ended.
  bool post(std::function<void()> command) noexcept;
  // Ends and joins the thread. Every pair must be detached. Idempotent.
  void stop() noexcept;

  // On the pump thread, from commands.
  void attach(QueuePair& pair) noexcept;
  void detach(QueuePair& pair) noexcept;
  // Puts a pair on the run list: something changed.
  void activate(QueuePair& pair) noexcept;

  // false: the kernel gave no AIO context, so that every frame for a pod is a write of its own (write_batch.h).
  bool writesTogether() const noexcept { return scratch_->writes.together(); }
  // How often the thread came out of a sleep, and what it spun in vain.
  uint64_t wakeups() const noexcept { return wakeups_.get(); }
  uint64_t fruitlessSpinNs() const noexcept { return spunNs_.get(); }

 private:
  Pump(uint32_t spinUs, UniqueFd epoll, UniqueFd control, std::unique_ptr<Kicker> kicker) noexcept;
  void run() noexcept;
  uint32_t runRound() noexcept;
  void park() noexcept;
  void sleep(uint64_t nowNs) noexcept;
  void poll(int timeoutMs) noexcept;
  void look(uint64_t nowNs) noexcept;
  void scheduleLook(uint64_t nowNs) noexcept;
  uint64_t lookIntervalNs() const noexcept;
  void yield(uint64_t nowNs) noexcept;
  void beginTurn() noexcept;
  void giveWay() noexcept;
  void letRead() noexcept;
  bool maySpin(uint64_t nowNs) noexcept;
  void endSpin(uint64_t nowNs) noexcept;
  void runCommands() noexcept;

  const uint64_t spinNs_;
  UniqueFd epoll_;
  UniqueFd control_;
  std::unique_ptr<Kicker> kicker_;
  std::mutex mutex_;
  std::vector<std::function<void()>> inbox_;
  bool closed_ = false;
  std::atomic<bool> stop_{false};

  // Pump thread only.
  PumpContext context_;
  std::unique_ptr<PumpScratch> scratch_;
  std::vector<QueuePair*> pairs_;
  std::vector<QueuePair*> runList_;
  uint32_t pairRounds_ = 0;
  bool worked_ = false;
  // Until then the core has no time to spin in.
  uint64_t crowdedUntilNs_ = 0;
  uint64_t crowdedForNs_ = 0;
  // Until then somebody else wants the core.
  uint64_t sharedUntilNs_ = 0;
  uint64_t idleSinceNs_ = 0;
  uint64_t settledNs_ = 0;
  uint64_t nextLookNs_ = 0;
  uint64_t budgetWindowNs_ = 0;
  uint64_t budgetSpentNs_ = 0;
  Counter wakeups_;
  Counter spunNs_;
  Thread thread_;
};

}  // namespace vu
