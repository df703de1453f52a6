#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

namespace kt {

// Counts of durations in buckets with fixed upper bounds, in seconds.
class Histogram {
 public:
  static constexpr std::array kBounds = {0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1,  0.2,  0.5,
                                         1.0,   2.0,   5.0,   10.0, 20.0, 50.0, 100., 200., 500.};

  void record(double seconds) {
    ++counts_[static_cast<size_t>(std::lower_bound(kBounds.begin(), kBounds.end(), seconds) - kBounds.begin())];
    sum_ += seconds;
  }
  uint64_t count(size_t bucket) const { return counts_[bucket]; }  // kBounds.size(): above all bounds
  double sum() const { return sum_; }

 private:
  std::array<uint64_t, kBounds.size() + 1> counts_{};
  double sum_ = 0;
};

}  // namespace kt
