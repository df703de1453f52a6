#include "runtime/plan/plan.h"

#include <algorithm>

#include "runtime/base/error.h"
#include "runtime/checkpoint/dummy.h"
#include "runtime/model/experts/doors.h"
#include "runtime/plan/losses.h"

namespace kt {
namespace {

constexpr int kMostNodes = 64;           // that are tried
constexpr int64_t kMostRanks = 1 << 20;  // of a plan

TopologyRequest request_of(const RunConfig& run, const Hardware& hardware, bool world_given) {
  return {.tensor_parallel = run.tensor_parallel_size,
          .experts_per_node = run.kt_threadpool_count.value_or(world_given ? -1 : hardware.numa_nodes),
          .expert_layout = run.expert_layout,
          .replicated = run.bank == "replicate"};
}

// The machine of each rank, as a launcher would start them: trunk ranks on the first machines that have devices for
// them, expert ranks spread evenly.
std::vector<int> machines_of(int world, const TopologyRequest& request, const Hardware& hardware, bool gpu_trunk) {
  const int t = request.tensor_parallel, nodes = hardware.nodes, p = request.experts_per_node;
  const int64_t expert_ranks = int64_t{p} * nodes;
  const bool all_experts = world == 1 || (p < 0 ? world == t : world == expert_ranks && world >= t);
  const int scheduler = !all_experts && p >= 0 && world == t + expert_ranks + 1 ? 1 : 0;
  const int experts = all_experts ? world : world - t - scheduler;
  const int trunks_here = gpu_trunk ? hardware.gpus : static_cast<int>(ceil_div(t, nodes));
  if (gpu_trunk && t > int64_t{nodes} * hardware.gpus)
    fail(kExitUsage, "tensor-parallel-size {}: {} machine{} with {} GPU{} each have no room for as many trunk ranks", t,
         nodes, nodes == 1 ? "" : "s", hardware.gpus, hardware.gpus == 1 ? "" : "s");
  std::vector<int> machines(static_cast<size_t>(scheduler), 0);
  if (!all_experts)
    for (int i = 0; i < t; ++i) machines.push_back(i / trunks_here);
  for (int i = 0; i < experts; ++i) machines.push_back(static_cast<int>(static_cast<int64_t>(i) * nodes / experts));
  return machines;
}

// Where every rank is an expert rank too, the first machine may have more trunk ranks than GPUs.
void require_gpus(const Topology& topology, const Hardware& hardware) {
  std::vector<int> trunks(static_cast<size_t>(hardware.nodes), 0);
  for (const int rank : topology.trunk)
    if (++trunks[static_cast<size_t>(topology.node_of[static_cast<size_t>(rank)])] > hardware.gpus)
      fail(kExitUsage,
           "tensor-parallel-size {}: machine {} would have more trunk ranks than its {} GPU{}\ntry {} ranks",
           topology.trunk.size(), topology.node_of[static_cast<size_t>(rank)], hardware.gpus,
           hardware.gpus == 1 ? "" : "s", topology.trunk.size() + topology.experts.size());
}

int threads_of(const std::optional<int>& asked, int cores, int ranks) {
  return std::max(1, std::min(asked.value_or(cores), cores) / std::max(1, ranks));
}

Topology topology_of(const RunConfig& run, const Hardware& hardware, std::optional<int> world,
                     const std::vector<int>& node_of = {}) {
  const TopologyRequest request = request_of(run, hardware, world.has_value());
  const int64_t ranks = world ? *world : request.tensor_parallel + int64_t{request.experts_per_node} * hardware.nodes;
  if (ranks > kMostRanks)
    fail(kExitUsage, "{} ranks ({} machines with kt-threadpool-count {}): at most {} can be planned", ranks,
         hardware.nodes, request.experts_per_node, kMostRanks);
  const bool gpu_trunk = run.device == "cuda";
  Topology topology = plan_topology(
      request, 0, node_of.empty() ? machines_of(static_cast<int>(ranks), request, hardware, gpu_trunk) : node_of);
  if (gpu_trunk) require_gpus(topology, hardware);
  return topology;
}

Deployment deploy(const RunConfig& run, const LoadedConfig& model, Format experts, const Hardware& hardware,
                  const Topology& topology) {
  trunk_share(model.config, 0, run.tensor_parallel_size);  // the heads divide, also in a world of one
  const auto weights = dummy_checkpoint({.norm_plus_one = model.config.norm_plus_one});
  Deployment d = make_deployment(model, *weights, topology, experts, trunk_method(run));
  d.gpu_trunk = run.device == "cuda";
  const int experts_here = static_cast<int>(ceil_div(static_cast<int64_t>(topology.experts.size()), hardware.nodes));
  d.expert_threads = threads_of(run.kt_cpuinfer, hardware.cores, experts_here);
  d.trunk_threads = d.gpu_trunk ? 0 : threads_of(run.trunk_threads, hardware.cores / hardware.numa_nodes, 1);
  return d;
}

// The fewest machines with which everything fits, when options alone do not help; 0 if there are none.
int nodes_needed(const RunConfig& run, const LoadedConfig& model, Format experts, Hardware hardware) {
  Deployment d = deploy(run, model, experts, hardware, topology_of(run, hardware, std::nullopt));
  for (hardware.nodes += 1; hardware.nodes <= kMostNodes; ++hardware.nodes) {
    d.topology = topology_of(run, hardware, std::nullopt);
    if (find_shortages(run, plan_ranks(run, d), d, hardware).empty()) return hardware.nodes;
  }
  return 0;
}

LayoutChoice layout_of(const RunConfig& run, const LoadedConfig& model, Format experts, const Hardware& hardware,
                       std::optional<int> world, const std::vector<int>& node_of) {
  if (run.expert_layout != "auto") return {.layout = run.expert_layout, .why = {}};
  const int chunk = engine_config(run, model.config).chunked_prefill_size;
  return choose_layout(model.config, experts, hardware, chunk, dispatch_type(run), [&](std::string_view layout) {
    RunConfig with = run;
    with.expert_layout = layout;
    return topology_of(with, hardware, world, node_of);
  });
}

void check_losses(const RunConfig& run, const Deployment& d) {
  const ModelConfig& config = d.model.config;
  const HotSets hot = place_hot(run, config);
  const std::vector<ExpertSets> copies = place_copies(run, config, d.topology);
  const TrunkLimits limits = trunk_limits(run, engine_config(run, config), config, d.experts, d.topology);
  check_losses(run, {config, d.topology, hot, copies}, plan_doors(d.topology, config, limits).teams);
}

}  // namespace

void complete(ClusterPlan& plan, const RunConfig& run) {
  const Deployment& d = plan.deployment;
  const auto shortages = [&](const RunConfig& changed) {
    return find_shortages(changed, plan_ranks(changed, d), d, plan.hardware);
  };
  plan.ranks = plan_ranks(run, d);
  if (run.bank == "replicate" && plan.hardware.memory_bandwidth_gbs > 0) {
    const EngineConfig engine = engine_config(run, d.model.config);
    plan.sliced = choose_sliced(run, d.model.config, d.experts, plan.hardware, d.topology, max_step_rows(engine));
  }
  plan.shortages = shortages(run);
  if (!plan.shortages.empty())
    plan.remedies =
        find_remedies(run, d.model.config, [&](const RunConfig& changed) { return shortages(changed).empty(); });
  plan.limits = rate_limits(run, d, plan.hardware);
  plan.dispatch_dtype = run.dispatch_dtype;
}

Cluster plan_deployment(const RunConfig& asked, const LoadedConfig& model, Format experts, const Hardware& hardware,
                        std::optional<int> world, const std::vector<int>& node_of) {
  if (asked.device == "cuda" && !hardware.gpus)
    fail(kExitUsage, "device cuda: {} has no GPUs\nuse device cpu, or hardware with gpus and gpu-memory-gb",
         hardware.name);
  RunConfig run = asked;
  if (run.device == "auto") run.device = hardware.nodes * hardware.gpus >= run.tensor_parallel_size ? "cuda" : "cpu";
  LayoutChoice layout = layout_of(run, model, experts, hardware, world, node_of);
  run.expert_layout = layout.layout;
  Deployment deployment = deploy(run, model, experts, hardware, topology_of(run, hardware, world, node_of));
  return {std::move(run), std::move(layout), std::move(deployment)};
}

ClusterPlan plan_cluster(const RunConfig& asked, const LoadedConfig& model, Format experts, const Hardware& hardware,
                         std::optional<int> world) {
  auto [run, layout, deployment] = plan_deployment(asked, model, experts, hardware, world);
  check_losses(run, deployment);
  const TopologyRequest request = request_of(run, hardware, false);
  ClusterPlan plan{.hardware = hardware,
                   .layout = std::move(layout),
                   .worlds = valid_world_sizes(request, hardware.nodes),
                   .deployment = std::move(deployment)};
  if (run.mem_fraction_static) {
    const size_t places = static_cast<size_t>(run.device == "cuda" ? run.tensor_parallel_size : hardware.nodes);
    const double gb = run.device == "cuda" ? hardware.gpu_memory_gb : hardware.memory_gb;
    const std::vector<size_t> available(places, static_cast<size_t>(gb * 1e9));
    if (const int blocks = kv_blocks_of_fraction(run, plan.deployment, available))
      run.max_total_tokens = blocks * kBlockTokens;  // else the shortages say what does not fit
  }
  complete(plan, run);
  if (!plan.shortages.empty() && plan.remedies.options.empty())
    plan.nodes_needed = nodes_needed(run, model, experts, hardware);
  return plan;
}

}  // namespace kt
