#pragma once

#include <string>
#include <vector>

#include "runtime/arch/load_config.h"
#include "runtime/config/run_config.h"
#include "runtime/engine/engine_options.h"
#include "runtime/placement/placement.h"
#include "runtime/plan/memory_plan.h"

namespace kt {

// What is to be served and how it is cut among the ranks. It refers to what it is made of.
struct Deployment {
  const LoadedConfig& model;
  Topology topology;
  Format experts = Format::BF16;  // of the banks
  bool gpu_trunk = false;         // the trunk's memory is that of GPUs
  bool running = false;           // as this program does it: layerwise prefill has slots for batches, not for layers
  int trunk_threads = 1, expert_threads = 1;

  std::vector<TrunkShare> shares;            // by trunk index
  std::vector<TrunkSize> trunk;              // likewise
  size_t trunk_files = 0, expert_files = 0;  // bytes that are read
};
// `weights`: the checkpoint, or a generator when only the config is known; tells the trunk's formats. `trunk`: what
// they are quantised to.
Deployment make_deployment(const LoadedConfig& model, const Checkpoint& weights, const Topology& topology,
                           Format experts, std::optional<Format> trunk = {});

struct RankPlan {
  int rank = 0, node = 0;
  std::string role;
  MemoryPlan memory;
  ExpertShare bank;
};
// What each rank takes with these options. Throws Error(kExitUsage) for options that contradict each other.
std::vector<RankPlan> plan_ranks(const RunConfig& run, const Deployment& deployment);

// Which experts are hot at start, by the options; and which further copies each group of expert ranks holds, [group],
// none without ep-num-redundant-experts. Both read init-expert-location. The same on every rank. Throw
// Error(kExitUsage) for what does not fit the model, and for copies where all expert ranks are one group.
HotSets place_hot(const RunConfig& run, const ModelConfig& config);
std::vector<ExpertSets> place_copies(const RunConfig& run, const ModelConfig& config, const Topology& topology);
// Experts are deferred on expert ranks that are no trunk ranks: those work while the trunk goes on. Throws
// Error(kExitUsage) when it is asked for and a trunk rank holds experts itself.
void check_deferral(const RunConfig& run, const Topology& topology);
// Of the rank at this place among the expert ranks.
ExpertShare bank_share(const ModelConfig& config, const Topology& topology, std::span<const ExpertSets> copies,
                       int expert_index);

// Expert ranks that hold no part of any expert: an expert's columns are cut into slices, which may be fewer than the
// ranks, as may the experts themselves. And what to say of them, "" if there are none.
std::vector<int> ranks_without_experts(const ModelConfig& config, const Topology& topology);
std::string idle_ranks_line(const ModelConfig& config, const Topology& topology);

WireType dispatch_type(const RunConfig& run);
// What the trunk's matrices are quantised to; nothing: they stay as stored.
std::optional<Format> trunk_method(const RunConfig& run);
// What the options ask of the ranks' steps and of the experts on the trunk. `bank`: format of the banks.
TrunkLimits trunk_limits(const RunConfig& run, const EngineConfig& engine, const ModelConfig& config, Format bank,
                         const Topology& topology);

}  // namespace kt
