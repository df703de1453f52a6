#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "runtime/engine/engine.h"

namespace kt {

// Counts of values in buckets with fixed upper bounds, in seconds.
class Histogram {
 public:
  void record(double seconds);
  void write(std::string_view name, std::string_view help, std::string& out) const;

 private:
  static constexpr std::array kBounds = {0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1,  0.2,  0.5,
                                         1.0,   2.0,   5.0,   10.0, 20.0, 50.0, 100., 200., 500.};
  std::array<uint64_t, kBounds.size() + 1> counts_{};
  double sum_ = 0;
};

// What the HTTP side counts. Touched by the io thread only.
struct Metrics {
  Histogram time_to_first_token, inter_token_latency, e2e_latency;
  // Requests for text by HTTP status and finish reason ("" for refused ones): a bounded set of labels.
  std::map<std::pair<int, std::string>, uint64_t> requests;
  uint64_t dropped_slow_readers = 0;
  int connections = 0;
};

struct ServedModel;

// Prometheus text format, version 0.0.4.
std::string to_prometheus(const Metrics& metrics, const EngineStats& stats, std::string_view version,
                          const ServedModel& model);

}  // namespace kt
