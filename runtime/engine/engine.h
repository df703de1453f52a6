#pragma once

#include <cstdint>
#include <memory>
#include <stop_token>
#include <string_view>
#include <variant>
#include <vector>

#include "runtime/base/histogram.h"
#include "runtime/engine/request.h"
#include "runtime/step/step.h"
#include "runtime/text/tokens/tokenizer.h"

namespace kt {

struct EngineConfig {
  int context_length = 0;           // tokens of one request that the model can hold, prompt and answer
  int kv_blocks = 0;                // the KV pool, in pages of kBlockTokens tokens
  int max_running_requests = 32;    // also the number of recurrent states; at most max_logit_rows - kBlockTokens
  int max_queued_requests = 1024;   // beyond the running ones; -1: no limit
  int chunked_prefill_size = 2048;  // tokens of one step, at least kBlockTokens; -1: whole prompts
  bool enable_mixed_chunk = false;  // decode rows ride along with prefill chunks
  double max_decode_stall_ms = 0;   // how long prefill may keep running answers waiting; 0: as long as there is any
  double stall_step_costs = 0;      // if that is more: so many times what a prefill step costs without its tokens
  double idle_timeout_s = 0;        // a request of which nothing is computed for so long ends; 0: never
  bool prefix_cache = true;         // keys and values of earlier requests are used again
  bool recurrent = false;           // the model has recurrent state
  int state_snapshots = 0;          // that the ranks can keep; without any a recurrent model reuses no prefix
  int max_logit_rows = 256;         // of one step
  std::vector<int32_t> eos = {};    // tokens that end an answer
};

// The most tokens that a step of such an engine can have: the ranks size their buffers by it and by max_logit_rows.
int max_step_rows(const EngineConfig& config);

// A snapshot for /health, /metrics and /get_server_info.
struct EngineStats {
  int running = 0, waiting = 0;
  int retracted = 0;                                                  // of the waiting ones, those that ran before
  int batch_tokens = 0;                                               // of the last step
  int kv_tokens_used = 0, kv_tokens_cached = 0, kv_tokens_total = 0;  // cached: of no running request
  int max_running_requests = 0, max_context = 0;                      // max_context: prompt + answer of one request
  uint64_t requests_total = 0, aborted_total = 0, retracted_total = 0;
  uint64_t prompt_tokens_total = 0, generation_tokens_total = 0;
  uint64_t queried_tokens_total = 0, cached_tokens_total = 0;  // of prompts: looked up in the prefix cache, found there
  uint64_t evicted_tokens_total = 0;                           // that the prefix cache gave up for others
  Histogram prefill_steps, decode_steps, mixed_steps;
  double last_generation_throughput = 0.0;  // tokens/s of recent decode steps
  double step_age_s = 0.0;                  // since a step was last seen to go on while work is waiting; 0 when idle
  bool draining = false;
  std::vector<StepTotals> step_totals = {};  // by rank
};

inline constexpr const char* kShuttingDown = "The server is shutting down.";

// Rank 0's loop over steps: takes requests, asks the scheduler for a batch, runs it on the ranks, samples, emits.
// submit, abort, stats, drain and flush_cache may be called from any thread; run owns all the rest and stays on its own
// thread.
class Engine {
 public:
  virtual ~Engine() = default;

  // Takes a request or says at once why not. On success on_emission is called until one emission has `finish`.
  virtual std::variant<uint64_t, Rejection> submit(GenerateRequest request, OnEmission on_emission) = 0;
  // Ends a request within one step, wherever it is; its last emission has finish.kind == abort. Unknown ids are
  // ignored.
  virtual void abort(uint64_t id) = 0;
  virtual EngineStats stats() const = 0;
  // Takes no new requests from now on and says why; those taken go on.
  virtual void drain(const std::string& why = kShuttingDown) = 0;
  // Forgets all cached prefixes before the next request; false, and nothing happens, while requests are open.
  virtual bool flush_cache() = 0;
  // Until stop is requested and then until every request has its last emission.
  // When a step fails every open request first gets an emission that ends in error, then the exception leaves.
  virtual void run(std::stop_token stop) = 0;
};

// Both must outlive the engine. Throws Error(kExitUsage) when the numbers cannot work together.
std::unique_ptr<Engine> make_engine(const EngineConfig& config, StepRunner& runner, const Tokenizer& tokenizer);

}  // namespace kt
