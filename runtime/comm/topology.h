#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace kt {

// Who does what. Equal on all ranks but for `rank`.
//   trunk rank    attention, dense parts, router, hot experts; tensor-parallel over `trunk`
//   expert rank   a shard of the routed experts in its own memory
//   rank 0        scheduler and HTTP endpoint, whatever else it is
struct Topology {
  int rank = 0, world = 1;
  std::vector<int> trunk;     // ranks, in tensor-parallel order
  std::vector<int> experts;   // ranks, in order of their shards
  std::vector<int> group_of;  // of each of them: groups hold different experts, the ranks of a group slices of each
  std::vector<int> node_of;   // machine of every rank
  bool replicated = false;    // every group holds copies of all others' experts

  int trunk_index() const;   // of this rank in `trunk`, or -1
  int expert_index() const;  // of this rank in `experts`, or -1
  bool is_scheduler() const { return rank == 0; }
  std::string role_name() const;  // "trunk+expert", "expert", "scheduler", ...: for logs
};

struct TopologyRequest {
  int tensor_parallel = 1;
  int experts_per_node = -1;  // kt-threadpool-count; -1: what the world size leaves
  // slice: every rank holds a part of every expert; expert: whole experts; hybrid: slices inside a machine, whole
  // experts between machines
  std::string_view expert_layout = "hybrid";
  bool replicated = false;  // bank: replicate
};

// Valid world sizes N for T = tensor_parallel, P = experts_per_node on `nodes` machines:
//   1                 all roles in one process
//   T + P*nodes       ranks 0..T-1 are the trunk, the others expert ranks
//   T + P*nodes + 1   rank 0 is scheduler only, then the trunk, then expert ranks
//   P*nodes >= T      every rank is an expert rank, the first T are the trunk too
// With P absent the ranks beyond the trunk are expert ranks; N == T then means that the trunk ranks are both.
struct WorldSize {
  int64_t ranks = 1;
  std::string roles;  // "all roles in one process"
};
std::vector<WorldSize> valid_world_sizes(const TopologyRequest& request, int nodes);  // P present

// Where machines have different numbers of expert ranks, which kt-threadpool-count would refuse: what that means, and
// what to do. Empty where they have not.
std::string uneven_machines(const Topology& topology);

// Throws Error(kExitUsage) saying what is valid.
Topology plan_topology(const TopologyRequest& request, int rank, std::span<const int> node_of);

}  // namespace kt
