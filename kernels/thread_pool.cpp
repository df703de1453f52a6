#include "kernels/thread_pool.h"

#include <pthread.h>
#include <sched.h>
#include <x86intrin.h>

#include <chrono>

namespace kt {
namespace {

constexpr unsigned kFlushDenormals = 0x8040;  // FTZ and DAZ of MXCSR

void pin_to(int core) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(core, &set);
  pthread_setaffinity_np(pthread_self(), sizeof set, &set);  // refused in some containers: then it stays unpinned
}

// Returns when changed() is true: spins 20 us, yields 100 us, then calls sleep() between checks.
template <class Changed, class Sleep>
void wait_until(Changed changed, Sleep sleep) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  for (int i = 1; !changed(); ++i) {
    _mm_pause();
    if (i % 64) continue;
    const auto waited = Clock::now() - start;
    if (waited > std::chrono::microseconds(120)) return sleep();
    if (waited > std::chrono::microseconds(20)) sched_yield();
  }
}

}  // namespace

ThreadPool::ThreadPool(int threads, std::span<const int> cores) {
  CPU_ZERO(&allowed_);
  pthread_getaffinity_np(pthread_self(), sizeof allowed_, &allowed_);
  auto core = [&](int i) { return cores.empty() ? -1 : cores[i % cores.size()]; };
  if (core(0) >= 0) pin_to(core(0));
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this, c = core(i)] { work(c); });
}

ThreadPool::~ThreadPool() {
  stop_ = true;
  job_.fetch_add(1);
  job_.notify_all();
  for (std::thread& t : workers_) t.join();
}

void ThreadPool::unpin_caller() const { pthread_setaffinity_np(pthread_self(), sizeof allowed_, &allowed_); }

void ThreadPool::run_erased(int64_t parts, Call call, const void* part) {
  const unsigned mode = _mm_getcsr();
  _mm_setcsr(mode | kFlushDenormals);
  if (workers_.empty() || parts <= 1) {
    for (int64_t i = 0; i < parts; ++i) {
      next_.fetch_add(1, std::memory_order_relaxed);
      call(part, i);
    }
  } else {
    call_ = call;
    part_ = part;
    parts_ = parts;
    next_.store(0, std::memory_order_relaxed);
    working_.store(static_cast<uint32_t>(workers_.size()), std::memory_order_relaxed);
    job_.fetch_add(1, std::memory_order_release);
    job_.notify_all();
    take_parts();
    wait_until([&] { return working_.load(std::memory_order_acquire) == 0; },
               [&] {
                 for (uint32_t n; (n = working_.load(std::memory_order_acquire)) != 0;) working_.wait(n);
               });
  }
  _mm_setcsr(mode);
}

void ThreadPool::take_parts() {
  for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < parts_;) call_(part_, i);
}

void ThreadPool::work(int core) {
  if (core >= 0) pin_to(core);
  _mm_setcsr(_mm_getcsr() | kFlushDenormals);
  for (uint32_t seen = 0;;) {
    wait_until([&] { return job_.load(std::memory_order_acquire) != seen; }, [&] { job_.wait(seen); });
    seen = job_.load(std::memory_order_acquire);
    if (stop_) return;
    take_parts();
    if (working_.fetch_sub(1, std::memory_order_acq_rel) == 1) working_.notify_one();
  }
}

}  // namespace kt
