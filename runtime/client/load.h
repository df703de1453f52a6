#pragma once

#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "runtime/client/endpoint.h"

namespace kt {

struct LoadRequest {
  std::string body;       // of a streamed /v1/completions with stream_options.include_usage
  int prompt_tokens = 0;  // what is believed until the server says it
};

struct LoadPlan {
  Endpoint endpoint;
  std::vector<LoadRequest> requests;
  // Open loop: requests arrive as a Poisson process; infinite: all at the start.
  double requests_per_s = std::numeric_limits<double>::infinity();
  int max_concurrency = 0;  // closed loop: what arrives beyond waits, its clock not running yet; 0: no limit
  uint64_t seed = 0;        // of the arrivals
};

// What became of one request. Times in seconds since the start of the load.
struct LoadRecord {
  std::string error;  // "": complete
  int prompt_tokens = 0, output_tokens = 0;
  double sent = 0, first = 0, last = 0;  // of text
  std::vector<double> gaps;              // between one piece of text and the next
};

struct LoadResult {
  std::vector<LoadRecord> records;  // in the order of the requests
  double duration = 0;
  int most_concurrent = 0;
};

// Sends the requests, each on a connection of its own, and waits for all answers. on_done is called after each.
LoadResult run_load(const LoadPlan& plan, const std::function<void(const LoadRecord&)>& on_done);

}  // namespace kt
