#pragma once

#include <optional>
#include <string>
#include <vector>

#include "runtime/comm/topology.h"
#include "runtime/comm/transport.h"

namespace kt {

// Where this rank computes.
struct CorePlan {
  int threads = 1;
  std::vector<int> cores;  // one per thread; empty: not pinned, because the ranks have more threads than cores
  int numa_node = -1;      // of its memory; -1: any
  std::vector<std::string> warnings;
};

struct CoreRequest {
  std::optional<int> trunk_threads;  // of each trunk rank
  std::optional<int> kt_cpuinfer;    // of all expert ranks of one machine together
  std::vector<int> kt_numa_nodes;    // NUMA node of each expert rank of a machine, in order; empty: spread evenly
};

// Shares the cores that the launcher left to this machine's ranks among those that compute. Expert ranks are spread
// over the NUMA nodes; without a request a rank gets an equal part of its node's cores. All ranks call it at the same
// point. Throws Error(kExitUsage) when kt-numa-nodes does not fit.
CorePlan plan_cores(Transport& transport, const Topology& topology, const CoreRequest& request);

int numa_node_count();  // that the launcher left to this process

}  // namespace kt
