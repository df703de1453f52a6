#include "runtime/plan/ranks.h"

#include <algorithm>

#include "runtime/base/error.h"
#include "runtime/model/experts/doors.h"
#include "runtime/model/experts/expert_fetch.h"
#include "runtime/recording/counts_file.h"

namespace kt {
namespace {

// The bank's format is either the checkpoint's or one that `ktmpi convert` wrote, whose files hold the packed matrices.
size_t expert_file_bytes(const ModelConfig& config, Format format) {
  if (info(format).int8_activations) return bank_bytes(config, format, Range{0, config.moe.inter});
  return static_cast<size_t>(moe_layer_count(config)) * config.moe.experts * 3 *
         stored_bytes(format, config.moe.inter, config.hidden);
}

// A request of a model, with the counts of init-expert-location if there are any.
struct Placement {
  ExpertCounts counts;
  PlacementRequest request;

  Placement(const RunConfig& run, const ModelConfig& config) {
    request.experts = config.moe.experts;
    for (LayerSpec l : config.layers) request.moe.push_back(l.ffn == Ffn::moe);
    request.budget =
        hot_budget(run.kt_num_gpu_experts, run.kt_gpu_experts_ratio, moe_layer_count(config), config.moe.experts);
    if (run.init_expert_location == "trivial") return;
    counts = read_counts(run.init_expert_location);
    request.counts = &counts;
  }
  Placement(const Placement&) = delete;
};

// Every group holds what the others own.
std::vector<ExpertSets> copies_of_all(const ModelConfig& config, int groups) {
  if (groups == 1)
    fail(kExitUsage,
         "bank replicate: expert ranks are on one machine, which holds all experts once\n"
         "  start expert ranks on two machines or more, or leave it out");
  std::vector<ExpertSets> copies(static_cast<size_t>(groups), ExpertSets(config.layers.size()));
  for (size_t layer = 0; layer < config.layers.size(); ++layer)
    for (int32_t e = 0; config.layers[layer].ffn == Ffn::moe && e < config.moe.experts; ++e)
      for (int g = 0; g < groups; ++g)
        if (e % groups != g) copies[static_cast<size_t>(g)][layer].push_back(e);
  return copies;
}

}  // namespace

HotSets place_hot(const RunConfig& run, const ModelConfig& config) {
  return place(run.kt_expert_placement_strategy, Placement(run, config).request);
}

std::vector<ExpertSets> place_copies(const RunConfig& run, const ModelConfig& config, const Topology& topology) {
  if (run.ep_num_redundant_experts == 0 && run.bank != "replicate") return {};
  const int groups = expert_shares(config.moe.inter, topology.group_of, topology.replicated).front().groups;
  if (run.bank == "replicate") return copies_of_all(config, groups);
  if (groups == 1)
    fail(kExitUsage,
         "ep-num-redundant-experts {}: all expert ranks hold parts of every expert, there is nothing to copy\n"
         "  use expert-layout expert with more than one expert rank, or hybrid on more than one machine",
         run.ep_num_redundant_experts);
  const Placement placement(run, config);
  const HotSets hot = place(run.kt_expert_placement_strategy, placement.request);
  return place_copies(placement.request, hot, groups, run.ep_num_redundant_experts);
}

void check_deferral(const RunConfig& run, const Topology& topology) {
  const int deferred = run.kt_max_deferred_experts_per_token;
  const auto holds_experts = [&](int rank) {
    return std::find(topology.experts.begin(), topology.experts.end(), rank) != topology.experts.end();
  };
  if (deferred == 0 || std::none_of(topology.trunk.begin(), topology.trunk.end(), holds_experts)) return;
  fail(kExitUsage,
       "kt-max-deferred-experts-per-token {}: in this layout of {} ranks the trunk ranks hold experts themselves, and "
       "deferring those overlaps with nothing\n"
       "  start expert ranks of their own (tensor-parallel-size + kt-threadpool-count a machine), or leave it out",
       deferred, topology.world);
}

ExpertShare bank_share(const ModelConfig& config, const Topology& topology, std::span<const ExpertSets> copies,
                       int expert_index) {
  ExpertShare share =
      expert_shares(config.moe.inter, topology.group_of, topology.replicated)[static_cast<size_t>(expert_index)];
  if (!copies.empty()) share.copies = copies[static_cast<size_t>(share.group)];
  return share;
}

std::vector<int> ranks_without_experts(const ModelConfig& config, const Topology& topology) {
  const std::vector<ExpertShare> shares = expert_shares(config.moe.inter, topology.group_of, topology.replicated);
  std::vector<int> ranks;
  for (size_t i = 0; i < shares.size(); ++i)
    if (shares[i].count(config.moe.experts) == 0) ranks.push_back(topology.experts[i]);
  std::sort(ranks.begin(), ranks.end());
  return ranks;
}

std::string idle_ranks_line(const ModelConfig& config, const Topology& topology) {
  const std::vector<int> ranks = ranks_without_experts(config, topology);
  if (ranks.empty()) return "";
  const std::string who = fmt::format("{} {} {} no part of any expert", ranks.size() == 1 ? "rank" : "ranks",
                                      fmt::join(ranks, ", "), ranks.size() == 1 ? "holds" : "hold");
  if (!config.moe.experts) return who + ": the model has no routed experts";
  return who + fmt::format(
                   ": of each of {} experts there are {} slices of {} columns; start {} ranks fewer, or lower "
                   "kt-threadpool-count",
                   config.moe.experts, slice_count(config.moe.inter), slice_width(config.moe.inter), ranks.size());
}

WireType dispatch_type(const RunConfig& run) {
  if (run.dispatch_dtype == "bf16") return WireType::bf16;
  return run.dispatch_dtype == "float32" ? WireType::float32 : WireType::float64;
}

std::optional<Format> trunk_method(const RunConfig& run) {
  if (run.trunk_method == "model") return std::nullopt;
  if (run.trunk_method == "fp8") return Format::FP8;
  return run.trunk_method == "int8" ? Format::AMXINT8 : Format::AMXINT4;
}

namespace {

// A plan is made also for what this program was not built for: the emulation takes what the device itself would.
const DeviceKind* device_of(const RunConfig& run) {
  if (run.device == "auto") return &cpu_kind();
  const DeviceKind* kind = find_device_kind(run.device);
  return kind ? kind : find_device_kind("cuda-emulated");
}

// Before a job has chosen: NCCL between GPUs.
bool device_sums(const RunConfig& run, const Topology& topology) {
  const bool by_itself = run.trunk_sums == "auto" && run.device == "cuda" && run.on_lost_expert_rank == "end";
  return topology.trunk.size() > 1 && (run.trunk_sums == "nccl" || by_itself);
}

}  // namespace

TrunkLimits trunk_limits(const RunConfig& run, const EngineConfig& engine, const ModelConfig& config, Format bank,
                         const Topology& topology) {
  TrunkLimits limits{.device = device_of(run),
                     .max_rows = max_step_rows(engine),
                     .max_logit_rows = engine.max_logit_rows,
                     .context = longest_sequence(engine),
                     .expert_format = bank,
                     .hot_format = run.hot_weights == "model" ? stored_format(config.quant.stored) : bank,
                     .hot_experts = hot_budget(run.kt_num_gpu_experts, run.kt_gpu_experts_ratio,
                                               moe_layer_count(config), config.moe.experts),
                     .layerwise = run.prefill_threshold() != 0,
                     .max_deferred = run.kt_max_deferred_experts_per_token,
                     .trunk_method = trunk_method(run),
                     .tensor_cores = run.trunk_matmul == "tensor",
                     .shares_sums = shares_sums(topology),
                     .device_sums = device_sums(run, topology),
                     .wire = dispatch_type(run)};
  if (limits.hot_experts && run.moves_beside_steps())
    limits.spare_experts = std::min<int64_t>(limits.hot_experts, fetch_batch(config, limits.hot_format));
  return limits;
}

Deployment make_deployment(const LoadedConfig& model, const Checkpoint& weights, const Topology& topology,
                           Format experts, std::optional<Format> trunk) {
  const ModelConfig& config = model.config;
  Deployment d{.model = model, .topology = topology, .experts = experts};
  const int count = static_cast<int>(topology.trunk.size());
  for (int i = 0; i < count; ++i) {
    d.shares.push_back(trunk_share(config, i, count));
    d.trunk.push_back(trunk_size(weights, model.arch, config, d.shares.back(), trunk));
  }
  d.trunk_files = trunk_size(weights, model.arch, config, trunk_share(config, 0, 1)).stored;
  d.expert_files = expert_file_bytes(config, experts);
  return d;
}

std::vector<RankPlan> plan_ranks(const RunConfig& run, const Deployment& d) {
  const ModelConfig& config = d.model.config;
  const EngineConfig engine = engine_config(run, config);
  check_deferral(run, d.topology);
  const std::vector<ExpertSets> copies = place_copies(run, config, d.topology);
  const TrunkLimits limits = trunk_limits(run, engine, config, d.experts, d.topology);
  std::vector<RankPlan> ranks;
  Topology topology = d.topology;
  for (int r = 0; r < topology.world; ++r) {
    topology.rank = r;
    const int trunk = topology.trunk_index(), expert = topology.expert_index();
    const ExpertShare bank = expert < 0 ? ExpertShare() : bank_share(config, d.topology, copies, expert);
    const MemoryRequest request{.config = config,
                                .trunk = trunk < 0 ? nullptr : &d.shares[static_cast<size_t>(trunk)],
                                .trunk_weights = trunk < 0 ? 0 : d.trunk[static_cast<size_t>(trunk)].resident,
                                .bank = bank,
                                .experts = d.experts,
                                .cache = cache_limits(engine),
                                .limits = limits,
                                .gpu_trunk = d.gpu_trunk && !d.running,
                                .door_bytes = door_bytes(plan_doors(topology, config, limits), topology),
                                .threads = trunk < 0 ? d.expert_threads : d.trunk_threads,
                                .scheduler = r == 0};
    ranks.push_back({r, topology.node_of[static_cast<size_t>(r)], topology.role_name(), plan_memory(request), bank});
  }
  return ranks;
}

}  // namespace kt
