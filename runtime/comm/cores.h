#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/comm/machine.h"
#include "runtime/comm/topology.h"
#include "runtime/comm/transport.h"

namespace kt {

// Where a rank computes.
struct CorePlan {
  int threads = 1;
  std::vector<int> cores;  // logical processors, one per thread; empty: not pinned, there are more threads than room
  int numa_node = -1;      // of its memory; -1: any
  std::vector<std::string> warnings;
};

struct CoreRequest {
  std::optional<int> trunk_threads;  // of each trunk rank
  std::optional<int> kt_cpuinfer;    // of all expert ranks of one machine together
  std::vector<int> kt_numa_nodes;    // NUMA node of each expert rank of a machine, in order; empty: spread evenly
  int threads_per_core = 1;          // hardware threads that are used of each core
};

// A rank of one machine.
struct CoreUser {
  int rank = 0;
  bool trunk = false, expert = false;
  bool idle = false;      // an expert rank that holds no part of any expert
  std::vector<int> cpus;  // that its launcher left to it, ascending
};

// Shares a machine's cores among all of its ranks: `users` in order of rank, the plans in the same order.
//   where   Expert ranks are spread over the NUMA nodes, or put as kt-numa-nodes says, and so are ranks that are only
//           trunk ranks; each within what its launcher left to it.
//   how     Trunk ranks share their node's cores equally, and so do expert ranks the same cores once more, since the
//   many    ones wait while the others compute; or each has as many threads as were asked for. Of each core one
//           hardware thread, further ones only with threads_per_core. A rank with both roles takes the larger number
//           of the two that were asked for. Ranks with nothing to compute get none.
// Throws Error(kExitUsage) when kt-numa-nodes does not fit, or a launcher bound more ranks to cores than there are of
// them though the machine has enough, or bound a rank to a part of the machine that is of several NUMA nodes.
std::vector<CorePlan> share_cores(const Machine& machine, std::span<const CoreUser> users, const CoreRequest& request);

// This rank's part of its machine. All ranks call it at the same point; `idle_ranks` as in CoreUser.
CorePlan plan_cores(Transport& transport, const Topology& topology, std::span<const int> idle_ranks,
                    const CoreRequest& request);

}  // namespace kt
