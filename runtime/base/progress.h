#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <string>

#include "runtime/base/log.h"

namespace kt {

// How far a long job over many bytes is: "loading experts: 12.0 of 88.2 GB, 2.15 GB/s, 35 s left".
void log_progress(LogLevel level, std::string_view doing, size_t done, size_t total, double seconds);
// What became of it: "loaded experts: 88.20 GB in 41.0 s (2.15 GB/s)".
void log_done(std::string_view done, size_t total, double seconds);

// Says so at most every five seconds. Any thread may add.
class Progress {
 public:
  Progress(std::string doing, std::string done, size_t total_bytes, LogLevel level = LogLevel::info);

  void add(size_t bytes);
  void finish() const;

  static size_t bytes_of_all();  // that were added in this process, whatever to

 private:
  double seconds() const;

  std::string doing_, done_;
  size_t total_;
  LogLevel level_;  // of lines under way
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::atomic<size_t> bytes_{0};
  std::atomic<double> next_line_{5.0};
};

}  // namespace kt
