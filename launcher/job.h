#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "launcher/expert_source.h"
#include "runtime/arch/load_config.h"
#include "runtime/base/error.h"
#include "runtime/comm/cores.h"
#include "runtime/comm/topology.h"
#include "runtime/comm/transport.h"
#include "runtime/config/run_config.h"
#include "runtime/engine/engine.h"
#include "runtime/model/cluster_runner.h"
#include "runtime/model/memory_plan.h"
#include "runtime/placement/placement.h"
#include "runtime/plan/layout.h"

namespace kt {

// What the options ask for, with MPI under a launcher.
std::unique_ptr<Transport> make_transport(const RunConfig& run, int* argc, char*** argv);

// A rank's whole life, its exit code; then all ranks wait for each other. What it throws, past the set-up, ends all of
// them: the others wait in a step and cannot be asked. The JobRank must outlive it: its threads may wait, too.
int live(Transport& transport, const std::function<int()>& life);

// One rank of a job that runs the model: what set_up makes of the options, in the order in which it is made.
struct JobRank {
  const RunConfig& run;
  Transport& transport;
  int exit_code = kExitOk;  // of a set-up that failed

  LayoutChoice layout = {};  // of the routed experts
  Topology topology = {};
  const Ops* ops = nullptr;
  std::optional<LoadedConfig> loaded = {};
  EngineConfig engine = {};
  TrunkShare share = {};
  std::unique_ptr<Checkpoint> checkpoint = {};
  std::unique_ptr<ExpertFiles> experts = {};
  CacheLimits cache_limits = {};
  TrunkLimits limits = {};
  ExpertShare expert_share = {};        // that this rank holds
  HotSets hot = {};                     // at start
  std::vector<ExpertSets> copies = {};  // of experts, by group of expert ranks
  CorePlan cores = {};
  MemoryPlan memory = {};
  std::vector<size_t> memory_of_rank = {};            // bytes, of every rank
  std::vector<int64_t> misplaced_pages_of_rank = {};  // of the sampled ones of its experts; -1: not known
  std::unique_ptr<Transport> lane = {};               // where hot experts are exchanged beside steps
  std::unique_ptr<ThreadPool> pool = {};
  std::unique_ptr<Device> device = {};
  std::optional<TrunkWeights> trunk_weights = {};
  std::optional<ExpertBank> bank = {};
  std::optional<StateCache> cache = {};
  std::optional<Trunk> trunk = {};  // on trunk ranks

  int rank() const { return transport.rank(); }
  const ModelConfig& model() const { return loaded->config; }
};

// Changes to what a checkpoint's config.json says, before anything follows from it; none by default.
using EditConfig = std::function<void(LoadedConfig& loaded)>;

// Takes this rank from options to weights in memory, in phases that all ranks leave together: whatever one rank finds
// wrong is said once and ends all of them with its exit code, before the next phase begins. `front` is rank 0's own
// part of the first phase: all that can fail before memory is taken. False if a rank failed; see exit_code.
bool set_up(JobRank& job, const std::function<void()>& front, const EditConfig& edit = nullptr);

// GB/s with which every rank's threads read its weights (a part of them, once or twice), all ranks at a time; 0 where
// there are none. All ranks call it after set_up.
std::vector<double> weight_rates(JobRank& job);

// The life of a rank that is not rank 0, after set_up: steps as rank 0 sends them, until it dismisses all.
void follow(JobRank& job);

}  // namespace kt
