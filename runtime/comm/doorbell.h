#pragma once

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>

namespace kt {

// Wakes one sleeper: a futex word in memory that ringers and sleeper share, be they threads or processes of one node.
// All zero bytes is its initial state.
class alignas(64) Doorbell {
 public:
  // Call after the message is where the sleeper looks for it.
  void ring();
  // The same, but if true is returned, the caller wakes the sleeper by what it sleeps on instead of the futex.
  bool ring_wants_waking() {
    rings_.fetch_add(1);
    return asleep_.load() != 0;
  }

  // The sleeper calls listen, looks for the message once more, and sleeps only if there is none: what was rung for
  // after listen ends the sleep at once, what was rung for before it is seen by that last look.
  uint32_t listen();
  void sleep(uint32_t heard, std::chrono::microseconds limit);
  void stop_listening() { asleep_.store(0); }

 private:
  std::atomic<uint32_t> rings_{0};
  std::atomic<uint32_t> asleep_{0};
};
static_assert(std::atomic<uint32_t>::is_always_lock_free);

// How long the stages of a wait last.
struct Patience {
  std::chrono::microseconds spin{20};
  std::chrono::microseconds yield{200};     // spinning included
  std::chrono::microseconds sleep{50'000};  // longest sleep without a look; bounds the delay of what nobody rings for
  std::chrono::milliseconds limit{0};       // of the whole wait; zero: none
};

// Waits until arrived() is true: spins, then yields the core, then sleeps on the bell, a Doorbell or what does as one.
// False: it took longer than the limit.
template <class Bell, class Arrived>
bool staged_wait(Bell& bell, const Patience& patience, Arrived arrived) {
  using Clock = std::chrono::steady_clock;
  if (arrived()) return true;
  const Clock::time_point start = Clock::now();
  for (;;) {
    const auto waited = std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - start);
    if (patience.limit.count() && waited > patience.limit) return false;
    if (waited < patience.spin) {
      __builtin_ia32_pause();
      if (arrived()) return true;
    } else if (waited < patience.yield) {
      sched_yield();
      if (arrived()) return true;
    } else {
      const uint32_t heard = bell.listen();
      const bool now = arrived();
      // A quarter of the time waited so far: what nobody rings for is late by 25 % at most, and idling stays cheap.
      if (!now) bell.sleep(heard, std::min(patience.sleep, waited / 4));
      bell.stop_listening();
      if (now) return true;
    }
  }
}

}  // namespace kt
