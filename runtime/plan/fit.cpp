#include "runtime/plan/fit.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace kt {
namespace {

// An option that takes memory, counted in steps of it.
struct Knob {
  std::string_view option;
  int step;                                    // in the option's unit; for kt-gpu-experts-ratio in hundredths
  int least;                                   // in steps, the smallest value to suggest
  std::function<int(const RunConfig&)> value;  // in the option's unit
  std::function<void(RunConfig&, int)> set;

  int steps(const RunConfig& run) const { return static_cast<int>(ceil_div(value(run), step)); }
  std::string shown(const RunConfig& run) const {
    return option == "kt-gpu-experts-ratio" ? fmt::format("{:.2f}", value(run) / 100.0) : std::to_string(value(run));
  }
};

// In the order in which giving way costs least: memory for speed first, then what limits requests.
std::vector<Knob> knobs(const RunConfig& run, const ModelConfig& model) {
  const EngineConfig engine = engine_config(run, model);
  std::vector<Knob> all;
  if (run.kt_gpu_experts_ratio)
    all.push_back({"kt-gpu-experts-ratio", 1, 0,
                   [](const RunConfig& r) { return static_cast<int>(std::lround(*r.kt_gpu_experts_ratio * 100)); },
                   [](RunConfig& r, int n) { r.kt_gpu_experts_ratio = n / 100.0; }});
  else if (run.kt_num_gpu_experts)
    all.push_back({"kt-num-gpu-experts", 1, 0, [](const RunConfig& r) { return *r.kt_num_gpu_experts; },
                   [](RunConfig& r, int n) { r.kt_num_gpu_experts = n; }});
  const int chunk = engine.chunked_prefill_size, tokens = engine.kv_blocks * kBlockTokens,
            requests = engine.max_running_requests;
  all.push_back({"chunked-prefill-size", kBlockTokens, 4,
                 [chunk](const RunConfig& r) { return r.chunked_prefill_size.value_or(chunk); },
                 [](RunConfig& r, int n) { r.chunked_prefill_size = n; }});
  all.push_back({"max-total-tokens", kBlockTokens, 16,
                 [tokens](const RunConfig& r) { return r.max_total_tokens.value_or(tokens); },
                 [](RunConfig& r, int n) { r.max_total_tokens = n; }});
  all.push_back({"max-running-requests", 1, 1,
                 [requests](const RunConfig& r) { return r.max_running_requests.value_or(requests); },
                 [](RunConfig& r, int n) { r.max_running_requests = n; }});
  if (run.kt_gpu_prefill_token_threshold.value_or(0) > 0)  // all or nothing
    all.push_back({"kt-gpu-prefill-token-threshold", *run.kt_gpu_prefill_token_threshold, 0,
                   [](const RunConfig& r) { return *r.kt_gpu_prefill_token_threshold; },
                   [](RunConfig& r, int n) { r.kt_gpu_prefill_token_threshold = n; }});
  return all;
}

// Lowers the option to the largest value that fits; false if the least one does not, which then stays.
bool lower(RunConfig& run, const Knob& knob, const std::function<bool(const RunConfig&)>& fits) {
  const auto fits_with = [&](int steps) {
    knob.set(run, steps * knob.step);
    return fits(run);
  };
  int low = knob.least, high = knob.steps(run);
  if (high <= low || !fits_with(low)) return false;
  while (high - low > 1) {  // low fits
    const int middle = low + (high - low) / 2;
    (fits_with(middle) ? low : high) = middle;
  }
  knob.set(run, low * knob.step);
  return true;
}

size_t bytes_of(double gb) { return static_cast<size_t>(gb * 1e9); }

}  // namespace

std::vector<Shortage> find_shortages(const std::vector<RankPlan>& ranks, const Deployment& deployment,
                                     const Hardware& hardware) {
  std::vector<Shortage> shortages;
  std::vector<size_t> machines(static_cast<size_t>(hardware.nodes), 0);
  for (const RankPlan& r : ranks) {
    machines.at(static_cast<size_t>(r.node)) += deployment.gpu_trunk ? r.memory.in_memory() : r.memory.total();
    if (deployment.gpu_trunk && r.memory.on_device() > bytes_of(hardware.gpu_memory_gb))
      shortages.push_back(
          {fmt::format("the GPU of rank {}", r.rank), r.memory.on_device(), bytes_of(hardware.gpu_memory_gb)});
  }
  for (size_t m = 0; m < machines.size(); ++m)
    if (machines[m] > bytes_of(hardware.memory_gb))
      shortages.push_back({fmt::format("machine {}", m), machines[m], bytes_of(hardware.memory_gb)});
  return shortages;
}

Remedies find_remedies(const RunConfig& run, const ModelConfig& model,
                       const std::function<bool(const RunConfig&)>& fits) {
  const std::vector<Knob> all = knobs(run, model);
  Remedies remedies;
  for (const Knob& knob : all) {
    RunConfig changed = run;
    if (lower(changed, knob, fits))
      remedies.options.push_back({std::string(knob.option), knob.shown(changed), knob.shown(run)});
  }
  if (!remedies.options.empty()) return remedies;

  RunConfig changed = run;
  for (const Knob& knob : all) {
    const bool enough = lower(changed, knob, fits);
    if (knob.value(changed) != knob.value(run))
      remedies.options.push_back({std::string(knob.option), knob.shown(changed), knob.shown(run)});
    remedies.together = true;
    if (enough) return remedies;
  }
  return {};
}

std::string describe(const Remedies& remedies) {
  std::string text;
  for (const Remedy& r : remedies.options)
    text += fmt::format("{}lower {} to {} (from {})",
                        text.empty()        ? ""
                        : remedies.together ? "\nand "
                                            : "\nor ",
                        r.option, r.value, r.instead_of);
  return text;
}

}  // namespace kt
