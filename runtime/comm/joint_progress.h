#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <thread>

#include "runtime/comm/lifeline.h"
#include "runtime/comm/transport.h"

namespace kt {

// How far all ranks are together with loading: rank 0 says so every few seconds, from what their pulses tell it over
// the lifeline, and at the end.
class JointProgress {
 public:
  // All ranks call it at the same point. `total`: bytes that this rank is to load; `done`: those it has, which any
  // thread may ask. They are this rank's pulse from here on.
  JointProgress(Transport& transport, Lifeline& lifeline, size_t total, std::function<size_t()> done,
                std::chrono::milliseconds between_lines = std::chrono::seconds(5));

  // All ranks call it when all have loaded. After it they may have another pulse.
  void finish();

 private:
  double seconds() const;

  Transport& transport_;
  std::function<size_t()> done_;
  size_t total_ = 0;  // of all ranks
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::jthread thread_;  // on rank 0
};

}  // namespace kt
