#pragma once

#include <sched.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <span>
#include <thread>
#include <vector>

namespace kt {

// A fixed set of threads that run the parts of one job after the other. The calling thread is worker 0 and works too.
// Workers wait by spinning about 20 us, then yielding, then sleeping; an idle pool uses no CPU. One job at a time; jobs
// run with denormals flushed to zero, as tile instructions do.
class ThreadPool {
 public:
  // threads >= 1. Worker i is pinned to cores[i % size] when cores are given.
  explicit ThreadPool(int threads, std::span<const int> cores = {});
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  // For a further thread that a pinned one has started: lets it run wherever the pool's maker could before it was
  // pinned.
  void unpin_caller() const;

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  // Changes with every part that is begun, so that a long job is not taken for one that hangs. Any thread may ask.
  // Parts that share out work of their own say so themselves.
  int64_t pulse() const { return (int64_t{job_.load()} << 31) + next_.load() + beats_.load(); }
  void beat() { beats_.fetch_add(1, std::memory_order_relaxed); }

  // Calls part(i) once for each i in [0, parts), on any worker, and returns when all are done. part must not throw.
  template <class Part>
  void run(int64_t parts, const Part& part) {
    run_erased(
        parts, [](const void* f, int64_t i) { (*static_cast<const Part*>(f))(i); }, &part);
  }

 private:
  using Call = void (*)(const void*, int64_t);
  void run_erased(int64_t parts, Call call, const void* part);
  void take_parts();
  void work(int core);

  cpu_set_t allowed_;
  std::vector<std::thread> workers_;
  Call call_ = nullptr;
  const void* part_ = nullptr;
  int64_t parts_ = 0;
  alignas(64) std::atomic<int64_t> next_{0};
  alignas(64) std::atomic<uint32_t> job_{0};      // counts jobs; workers wait for it to change
  alignas(64) std::atomic<uint32_t> working_{0};  // workers that have not left the current job
  alignas(64) std::atomic<int64_t> beats_{0};
  std::atomic<bool> stop_{false};
};

}  // namespace kt
