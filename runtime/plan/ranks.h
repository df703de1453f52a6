#pragma once

#include <string>
#include <vector>

#include "runtime/arch/load_config.h"
#include "runtime/config/run_config.h"
#include "runtime/engine/engine_options.h"
#include "runtime/model/memory_plan.h"

namespace kt {

// What is to be served and how it is cut among the ranks. It refers to what it is made of.
struct Deployment {
  const LoadedConfig& model;
  Topology topology;
  Format experts = Format::BF16;  // of the banks
  bool gpu_trunk = false;         // the trunk's memory is that of GPUs
  int trunk_threads = 1, expert_threads = 1;

  std::vector<TrunkShare> shares;            // by trunk index
  std::vector<TrunkSize> trunk;              // likewise
  size_t trunk_files = 0, expert_files = 0;  // bytes that are read
};
// `weights`: the checkpoint, or a generator when only the config is known; tells the trunk's formats.
Deployment make_deployment(const LoadedConfig& model, const Checkpoint& weights, const Topology& topology,
                           Format experts);

struct RankPlan {
  int rank = 0, node = 0;
  std::string role;
  MemoryPlan memory;
  ExpertShare bank;
};
// What each rank takes with these options. Throws Error(kExitUsage) for options that contradict each other.
std::vector<RankPlan> plan_ranks(const RunConfig& run, const Deployment& deployment);

// What the options ask of the ranks' steps and of the experts on the trunk. `bank`: format of the banks.
TrunkLimits trunk_limits(const RunConfig& run, const EngineConfig& engine, const ModelConfig& config, Format bank);

}  // namespace kt
