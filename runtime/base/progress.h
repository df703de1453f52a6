#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <string>

namespace kt {

// Says how far a long job over many bytes is, at most every five seconds: "loading experts: 12.0 of 88.2 GB, 2.15 GB/s,
// 35 s left". Any thread may add.
class Progress {
 public:
  Progress(std::string doing, std::string done, size_t total_bytes);

  void add(size_t bytes);
  void finish() const;  // "loaded experts: 88.20 GB in 41.0 s (2.15 GB/s)"

 private:
  double seconds() const;

  std::string name_, doing_, done_;  // name_: whose job it is, whichever thread speaks
  size_t total_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::atomic<size_t> bytes_{0};
  std::atomic<double> next_line_{5.0};
};

}  // namespace kt
