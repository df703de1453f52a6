#pragma once

#include <cstdint>
#include <memory>
#include <stop_token>
#include <string_view>
#include <variant>
#include <vector>

#include "runtime/engine/request.h"

namespace kt {

// A snapshot for /health, /metrics and /get_server_info.
struct EngineStats {
  int running = 0, waiting = 0;
  int kv_tokens_used = 0, kv_tokens_total = 0;
  int max_running_requests = 0, max_context = 0;  // max_context: prompt + answer of one request
  uint64_t requests_total = 0, aborted_total = 0, retracted_total = 0;
  uint64_t prompt_tokens_total = 0, generation_tokens_total = 0, cached_tokens_total = 0;
  double last_generation_throughput = 0.0;  // tokens/s of recent decode steps
  double step_age_s = 0.0;                  // since the last finished step while work is waiting; 0 when idle
  bool draining = false;
};

// Rank 0's loop over steps: takes requests, asks the scheduler for a batch, runs it on the ranks, samples, emits.
// submit, abort, stats and drain may be called from any thread; run owns all the rest and stays on its own thread.
class Engine {
 public:
  virtual ~Engine() = default;

  // Takes a request or says at once why not. On success on_emission is called until one emission has `finish`.
  virtual std::variant<uint64_t, Rejection> submit(GenerateRequest request, OnEmission on_emission) = 0;
  // Ends a request within one step, wherever it is; its last emission has finish.kind == abort. Unknown ids are ignored.
  virtual void abort(uint64_t id) = 0;
  virtual EngineStats stats() const = 0;
  // Takes no new requests from now on; those taken go on.
  virtual void drain() = 0;
  // Until stop is requested and then until every request has its last emission.
  virtual void run(std::stop_token stop) = 0;
};

}  // namespace kt
