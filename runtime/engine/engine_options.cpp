#include "runtime/engine/engine_options.h"

#include <algorithm>

#include "runtime/base/error.h"

namespace kt {
namespace {

constexpr int kMaxLogitRows = 256;  // of a step
// Without max-decode-stall-ms; see docs/serving.md.
constexpr double kDefaultStallMs = 1000;
constexpr double kDefaultStepCosts = 4;  // prompts keep three quarters of their speed
constexpr int kDefaultKvTokens = 65536;  // without max-total-tokens, when the context is longer

}  // namespace

EngineConfig engine_config(const RunConfig& run, const ModelConfig& model) {
  EngineConfig e;
  e.context_length = run.context_length.value_or(model.max_context);
  if (e.context_length > model.max_context)
    fail(kExitUsage, "context-length {}: the model's config.json allows {}", e.context_length, model.max_context);
  if (run.max_running_requests) e.max_running_requests = *run.max_running_requests;
  if (e.max_running_requests > kMaxLogitRows - kBlockTokens)
    fail(kExitUsage, "max-running-requests {}: at most {}", e.max_running_requests, kMaxLogitRows - kBlockTokens);
  const int64_t all_contexts = int64_t{e.context_length} * e.max_running_requests;
  const int tokens = run.max_total_tokens.value_or(static_cast<int>(std::min<int64_t>(kDefaultKvTokens, all_contexts)));
  e.kv_blocks = std::max(1, tokens / kBlockTokens);
  if (run.max_queued_requests) e.max_queued_requests = *run.max_queued_requests;
  if (run.chunked_prefill_size) e.chunked_prefill_size = *run.chunked_prefill_size;
  e.enable_mixed_chunk = run.enable_mixed_chunk;
  e.max_decode_stall_ms = run.max_decode_stall_ms.value_or(kDefaultStallMs);
  if (!run.max_decode_stall_ms) e.stall_step_costs = kDefaultStepCosts;
  e.idle_timeout_s = run.request_idle_timeout_s;
  e.prefix_cache = !run.disable_radix_cache;
  e.recurrent =
      std::any_of(model.layers.begin(), model.layers.end(), [](LayerSpec l) { return l.mixer == Mixer::delta_net; });
  // Each running request has the state after its prompt and that of its answer; others wait for theirs to come back.
  if (e.recurrent && e.prefix_cache) e.state_snapshots = std::max(8, 2 * e.max_running_requests);
  e.max_logit_rows = kMaxLogitRows;
  e.eos = model.eos;
  return e;
}

CacheLimits cache_limits(const EngineConfig& engine) {
  return {.blocks = engine.kv_blocks, .slots = engine.max_running_requests, .snapshots = engine.state_snapshots};
}

int longest_sequence(const EngineConfig& engine) {
  return std::min(engine.context_length, engine.kv_blocks * kBlockTokens);
}

}  // namespace kt
