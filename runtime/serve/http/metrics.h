#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "runtime/base/histogram.h"
#include "runtime/engine/engine.h"

namespace kt {

// What the HTTP side counts. Touched by the io thread only.
struct Metrics {
  Histogram queue_time, time_to_first_token, inter_token_latency, e2e_latency;
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
