#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "runtime/plan/fit.h"
#include "runtime/plan/layout.h"
#include "runtime/plan/limits.h"

namespace kt {

// What is asked for on this hardware: `auto` decided, and who does what.
struct Cluster {
  RunConfig run;
  LayoutChoice layout;
  Deployment deployment;
};
// `experts`: format of the banks. `world`: number of ranks; absent: one trunk rank for each of tensor-parallel-size and
// kt-threadpool-count (absent: one for each NUMA node) expert ranks on each machine. The cluster refers to `model`.
// `node_of`: the machine of each rank; empty: as a launcher would start them.
// Throws Error(kExitUsage) for what no hardware could run, and when there are fewer GPUs than trunk ranks.
Cluster plan_deployment(const RunConfig& run, const LoadedConfig& model, Format experts, const Hardware& hardware,
                        std::optional<int> world, const std::vector<int>& node_of = {});

// What a deployment would take and could give, from the model's config and a description of the hardware alone.
struct ClusterPlan {
  Hardware hardware;
  LayoutChoice layout;            // of the routed experts; why: only of `auto`
  SliceChoice sliced;             // of steps; why: only of replicated banks, where rates are known
  std::vector<WorldSize> worlds;  // that are valid
  Deployment deployment;
  std::vector<RankPlan> ranks;
  std::vector<Shortage> shortages;  // empty: everything fits
  Remedies remedies;                // when it does not
  int nodes_needed = 0;             // when options do not help: machines with which everything fits, 0 if none do
  RateLimits limits;
  std::string dispatch_dtype = "exact";  // of expert sums between machines
};
// Fills in what follows from hardware and deployment: ranks, shortages, remedies and limits.
void complete(ClusterPlan& plan, const RunConfig& run);
// Of plan_deployment(), with the same arguments.
ClusterPlan plan_cluster(const RunConfig& run, const LoadedConfig& model, Format experts, const Hardware& hardware,
                         std::optional<int> world);

std::string to_text(const ClusterPlan& plan);  // tables, 120 columns
nlohmann::ordered_json to_json(const ClusterPlan& plan);

}  // namespace kt
