#include "runtime/plan/fit.h"

#include <fmt/format.h>

#include <algorithm>
#include <climits>
#include <cmath>
#include <numeric>

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
    if (option == "kt-gpu-experts-ratio") return fmt::format("{:.2f}", value(run) / 100.0);
    if (option == "bank") return run.bank;
    if (option == "kt-gpu-prefill-token-threshold") return run.kt_gpu_prefill_token_threshold;
    return std::to_string(value(run));
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
  if (run.ep_num_redundant_experts)
    all.push_back({"ep-num-redundant-experts", 1, 0, [](const RunConfig& r) { return r.ep_num_redundant_experts; },
                   [](RunConfig& r, int n) { r.ep_num_redundant_experts = n; }});
  if (run.bank == "replicate")
    all.push_back({"bank", 1, 0, [](const RunConfig& r) { return r.bank == "replicate"; },
                   [](RunConfig& r, int whole) { r.bank = whole ? "replicate" : "shard"; }});
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
  if (run.prefill_threshold() != 0)  // all or nothing
    all.push_back({"kt-gpu-prefill-token-threshold", 1, 0,
                   [](const RunConfig& r) { return r.prefill_threshold() != 0; },
                   [asked = run.kt_gpu_prefill_token_threshold](RunConfig& r, int on) {
                     r.kt_gpu_prefill_token_threshold = on ? asked : "0";
                   }});
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

// What the ranks of a machine take of the memory of each of its NUMA nodes, where ranks are put as by plan_cores
// (runtime/comm/cores.h): expert ranks and trunk ranks each spread evenly, or expert ranks as kt-numa-nodes says.
std::vector<size_t> numa_memory(const RunConfig& run, const std::vector<RankPlan>& ranks, const Deployment& d,
                                const Hardware& hardware, int machine) {
  const size_t nodes = static_cast<size_t>(hardware.numa_nodes);
  std::vector<const RankPlan*> experts, others;
  for (const RankPlan& r : ranks) {
    if (r.node != machine) continue;
    const std::vector<int>& e = d.topology.experts;
    (std::find(e.begin(), e.end(), r.rank) != e.end() ? experts : others).push_back(&r);
  }
  std::vector<size_t> bytes(nodes, 0);
  const auto add = [&](const RankPlan& r, size_t node) {
    bytes[std::min(node, nodes - 1)] += d.gpu_trunk ? r.memory.in_memory() : r.memory.total();
  };
  const bool given = run.kt_numa_nodes.size() == experts.size();
  for (size_t i = 0; i < experts.size(); ++i)
    add(*experts[i], given ? static_cast<size_t>(run.kt_numa_nodes[i]) : i * nodes / experts.size());
  for (size_t i = 0; i < others.size(); ++i) add(*others[i], i * nodes / others.size());
  return bytes;
}

}  // namespace

std::vector<Shortage> find_shortages(const RunConfig& run, const std::vector<RankPlan>& ranks,
                                     const Deployment& deployment, const Hardware& hardware) {
  std::vector<Shortage> shortages;
  const auto check = [&](std::string where, size_t needed, double gb) {
    const auto available = static_cast<size_t>(gb * 1e9);
    if (needed > available) shortages.push_back({std::move(where), needed, available});
  };
  if (deployment.gpu_trunk)
    for (const RankPlan& r : ranks)
      check(fmt::format("the GPU of rank {}", r.rank), r.memory.on_device(), hardware.gpu_memory_gb);
  for (int machine = 0; machine < hardware.nodes; ++machine) {
    const std::vector<size_t> numa = numa_memory(run, ranks, deployment, hardware, machine);
    check(fmt::format("machine {}", machine), std::accumulate(numa.begin(), numa.end(), size_t{0}), hardware.memory_gb);
    for (size_t n = 0; n < numa.size() && numa.size() > 1; ++n)
      check(fmt::format("NUMA node {} of machine {}", n, machine), numa[n], hardware.memory_gb / hardware.numa_nodes);
  }
  return shortages;
}

int kv_blocks_of_fraction(const RunConfig& run, const Deployment& deployment, const std::vector<size_t>& available) {
  RunConfig least = run;
  least.mem_fraction_static.reset();
  least.max_total_tokens = kBlockTokens;
  struct Part {
    size_t weights = 0, block = 0;  // bytes: of what is there to stay beside the cache, and of one block
  };
  std::vector<Part> parts(available.size());
  for (const RankPlan& r : plan_ranks(least, deployment)) {
    const MemoryPlan& m = r.memory;
    const std::vector<int>& trunk = deployment.topology.trunk;
    const auto at = std::find(trunk.begin(), trunk.end(), r.rank);
    if (deployment.gpu_trunk && at == trunk.end()) continue;
    Part& part = parts[static_cast<size_t>(deployment.gpu_trunk ? at - trunk.begin() : r.node)];
    part.weights += m.trunk_weights + m.hot_experts + m.states + (deployment.gpu_trunk ? 0 : m.experts);
    if (at != trunk.end())
      part.block += StateCache::bytes(deployment.model.config,
                                      deployment.shares[static_cast<size_t>(at - trunk.begin())], {.blocks = 1})
                        .pages;
  }
  int64_t blocks = run.max_total_tokens ? *run.max_total_tokens / kBlockTokens : INT_MAX / kBlockTokens;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (!parts[i].block) continue;
    const double share = *run.mem_fraction_static * static_cast<double>(available[i]);
    const double left = share - static_cast<double>(parts[i].weights);
    if (left < static_cast<double>(parts[i].block)) return 0;
    blocks = std::min(blocks, static_cast<int64_t>(left / static_cast<double>(parts[i].block)));
  }
  return static_cast<int>(std::max<int64_t>(blocks, 1));
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
    text += fmt::format("{}{} {} to {} (from {})",
                        text.empty()        ? ""
                        : remedies.together ? "\nand "
                                            : "\nor ",
                        r.option == "bank" ? "set" : "lower", r.option, r.value, r.instead_of);
  return text;
}

}  // namespace kt
