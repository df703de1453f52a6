#include "runtime/comm/topology.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "runtime/base/error.h"

namespace kt {
namespace {

int index_in(const std::vector<int>& ranks, int rank) {
  const auto found = std::find(ranks.begin(), ranks.end(), rank);
  return found == ranks.end() ? -1 : static_cast<int>(found - ranks.begin());
}

std::vector<int> ranks_from(int first, int count) {
  std::vector<int> ranks(static_cast<size_t>(count));
  std::iota(ranks.begin(), ranks.end(), first);
  return ranks;
}

const char* plural(int n) { return n == 1 ? "" : "s"; }

[[noreturn]] void refuse_world(const TopologyRequest& request, int world, int nodes) {
  const int t = request.tensor_parallel, p = request.experts_per_node;
  if (p < 0) {
    fail(kExitUsage,
         "{} rank{} for tensor-parallel-size {}: too few.\n"
         "  valid: 1 (all roles in one process), {} (every rank is trunk and expert rank) or more (those beyond the "
         "trunk are expert ranks)\n"
         "  try: mpirun -np {}, or a smaller tensor-parallel-size",
         world, plural(world), t, t, int64_t{t} + 1);
  }
  std::string valid;
  for (const WorldSize& size : valid_world_sizes(request, nodes))
    valid += fmt::format("\n  valid: {} ({})", size.ranks, size.roles);
  fail(kExitUsage,
       "{} rank{} for tensor-parallel-size {} and kt-threadpool-count {} on {} node{}.{}\n  try: mpirun -np {}", world,
       plural(world), t, p, nodes, plural(nodes), valid, t + int64_t{p} * nodes);
}

// Every node must hold P expert ranks, or the shares of the experts would not match the machines' memories.
void check_spread(const Topology& topology, const TopologyRequest& request) {
  const int p = request.experts_per_node;
  for (const int node : std::set<int>(topology.node_of.begin(), topology.node_of.end())) {
    const auto count = std::count_if(topology.experts.begin(), topology.experts.end(),
                                     [&](int r) { return topology.node_of[static_cast<size_t>(r)] == node; });
    if (count != p) {
      fail(kExitUsage,
           "node {} has {} expert rank{}; kt-threadpool-count asks for {} on every node.\n"
           "  try: slots in the host file, so that mpirun starts {} expert rank{} on each node and rank 0 on the first",
           node, count, plural(static_cast<int>(count)), p, p, plural(p));
    }
  }
}

std::vector<int> expert_groups(const Topology& t, std::string_view layout) {
  std::vector<int> groups, nodes;
  for (int rank : t.experts) {
    const int node = t.node_of[static_cast<size_t>(rank)];
    if (std::find(nodes.begin(), nodes.end(), node) == nodes.end()) nodes.push_back(node);
    const int of_node = index_in(nodes, node);
    groups.push_back(layout == "slice" ? 0 : layout == "expert" ? static_cast<int>(groups.size()) : of_node);
  }
  return groups;
}

}  // namespace

int Topology::trunk_index() const { return index_in(trunk, rank); }
int Topology::expert_index() const { return index_in(experts, rank); }

std::vector<WorldSize> valid_world_sizes(const TopologyRequest& request, int nodes) {
  const int t = request.tensor_parallel;
  const int64_t experts = int64_t{request.experts_per_node} * nodes;
  std::vector<WorldSize> sizes = {{1, "all roles in one process"}};
  if (experts >= t && experts > 1)
    sizes.push_back({experts, fmt::format("the first {} expert ranks hold the trunk", t)});
  sizes.push_back({t + experts, "trunk ranks, then expert ranks"});
  sizes.push_back({t + experts + 1, "rank 0 schedules only, then trunk ranks, then expert ranks"});
  return sizes;
}

std::string uneven_machines(const Topology& topology) {
  std::vector<int> counts(static_cast<size_t>(*std::max_element(topology.node_of.begin(), topology.node_of.end()) + 1));
  for (const int rank : topology.experts) ++counts[static_cast<size_t>(topology.node_of[static_cast<size_t>(rank)])];
  const auto [least, most] = std::minmax_element(counts.begin(), counts.end());
  if (*least == *most || *most <= 1) return "";
  return fmt::format(
      "machines have {} expert ranks: all wait for the one with the most work. kt-threadpool-count {} with {} ranks, "
      "by "
      "mpirun --map-by ppr:{}:node or srun --ntasks-per-node={}, gives each the same",
      fmt::join(counts, ", "), *most, *most * counts.size(), *most, *most);
}

std::string Topology::role_name() const {
  std::string name = is_scheduler() ? "scheduler" : "";
  if (trunk_index() >= 0) name += name.empty() ? "trunk" : "+trunk";
  if (expert_index() >= 0) name += name.empty() ? "expert" : "+expert";
  return name;
}

Topology plan_topology(const TopologyRequest& request, int rank, std::span<const int> node_of) {
  const int world = static_cast<int>(node_of.size()), t = request.tensor_parallel, p = request.experts_per_node;
  const int nodes = static_cast<int>(std::set<int>(node_of.begin(), node_of.end()).size());
  if (t < 1) fail(kExitUsage, "tensor-parallel-size: {} given, at least 1 expected", t);
  if (p == 0 || p < -1) fail(kExitUsage, "kt-threadpool-count: {} given, at least 1 expected", p);
  if (rank < 0 || rank >= world) fail(kExitUsage, "rank {} of a world of {}", rank, world);

  Topology topology{.rank = rank,
                    .world = world,
                    .trunk = {},
                    .experts = {},
                    .group_of = {},
                    .node_of = {node_of.begin(), node_of.end()},
                    .replicated = request.replicated};
  const int64_t expert_ranks = p < 0 ? -1 : int64_t{p} * nodes;
  if (world == 1) {  // one process plays the parts of all trunk ranks, so it needs no tensor parallelism
    topology.trunk = topology.experts = {0};
    topology.group_of = {0};
    return topology;
  }
  if (p < 0 && world == t) {
    topology.trunk = topology.experts = ranks_from(0, t);
  } else if (p < 0 && world > t) {
    topology.trunk = ranks_from(0, t);
    topology.experts = ranks_from(t, world - t);
  } else if (expert_ranks == world && world >= t) {
    topology.trunk = ranks_from(0, t);
    topology.experts = ranks_from(0, world);
  } else if (expert_ranks > 0 && world - expert_ranks == t) {
    topology.trunk = ranks_from(0, t);
    topology.experts = ranks_from(t, world - t);
  } else if (expert_ranks > 0 && world - expert_ranks - 1 == t) {
    topology.trunk = ranks_from(1, t);
    topology.experts = ranks_from(1 + t, world - t - 1);
  } else {
    refuse_world(request, world, nodes);
  }
  // Shards of one node stand together, however mpirun dealt out the ranks.
  std::stable_sort(topology.experts.begin(), topology.experts.end(),
                   [&](int a, int b) { return node_of[static_cast<size_t>(a)] < node_of[static_cast<size_t>(b)]; });
  if (p > 0) check_spread(topology, request);
  topology.group_of = expert_groups(topology, request.expert_layout);
  return topology;
}

}  // namespace kt
