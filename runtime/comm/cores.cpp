#include "runtime/comm/cores.h"

#include <numa.h>
#include <sched.h>

#include <algorithm>
#include <map>
#include <sstream>

#include "runtime/base/error.h"

namespace kt {
namespace {

std::vector<int> allowed_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> cores;
  if (sched_getaffinity(0, sizeof set, &set) == 0)
    for (int c = 0; c < CPU_SETSIZE; ++c)
      if (CPU_ISSET(c, &set)) cores.push_back(c);
  if (cores.empty()) cores.push_back(0);
  return cores;
}

int numa_node_of(int core) {
  if (numa_available() < 0) return 0;
  return std::max(numa_node_of_cpu(core), 0);
}

// The NUMA nodes of some cores, each with its cores.
std::map<int, std::vector<int>> by_numa_node(const std::vector<int>& cores) {
  std::map<int, std::vector<int>> nodes;
  for (int c : cores) nodes[numa_node_of(c)].push_back(c);
  return nodes;
}

struct Worker {
  int rank = 0, numa_node = 0;
  bool expert = false;
  int wanted = 0;  // threads asked for; 0: its share
};

}  // namespace

int numa_node_count() { return static_cast<int>(by_numa_node(allowed_cores()).size()); }

CorePlan plan_cores(Transport& transport, const Topology& topology, const CoreRequest& request) {
  const std::vector<int> cores = allowed_cores();
  std::ostringstream text;
  for (int c : cores) text << c << ' ';
  const std::vector<std::string> masks = all_gather(transport, text.str());
  const std::map<int, std::vector<int>> nodes = by_numa_node(cores);
  std::vector<int> node_ids;
  for (const auto& [id, members] : nodes) node_ids.push_back(id);
  CorePlan plan;

  // The computing ranks of this machine that share this rank's cores: launchers bind ranks to cores of their own, or
  // leave the whole machine to all of them.
  std::vector<Worker> workers;
  int experts_here = 0, trunks_here = 0;
  auto here = [&](int rank) {
    return topology.node_of[rank] == topology.node_of[topology.rank] && masks[rank] == masks[topology.rank];
  };
  auto contains = [](const std::vector<int>& ranks, int rank) {
    return std::find(ranks.begin(), ranks.end(), rank) != ranks.end();
  };
  for (int rank = 0; rank < topology.world; ++rank) {
    if (!here(rank)) continue;
    if (contains(topology.experts, rank)) {
      workers.push_back({.rank = rank, .expert = true});
      ++experts_here;
    } else if (contains(topology.trunk, rank)) {
      workers.push_back({.rank = rank});
      ++trunks_here;
    }
  }
  const std::vector<int>& given = request.kt_numa_nodes;
  if (!given.empty() && static_cast<int>(given.size()) != experts_here)
    fail(kExitUsage, "kt-numa-nodes names {} nodes for {} expert ranks of a machine", given.size(), experts_here);
  for (int id : given)
    if (!nodes.contains(id)) fail(kExitUsage, "kt-numa-nodes: NUMA node {} has no core that this rank may use", id);

  int expert = 0, trunk = 0;
  for (Worker& w : workers) {
    if (w.expert) {
      w.numa_node =
          given.empty() ? node_ids[static_cast<size_t>(expert) * node_ids.size() / experts_here] : given[expert];
      if (request.kt_cpuinfer)
        w.wanted = std::max(1, *request.kt_cpuinfer / experts_here + (expert < *request.kt_cpuinfer % experts_here));
      ++expert;
    } else {
      w.numa_node = node_ids[static_cast<size_t>(trunk) * node_ids.size() / trunks_here];
      w.wanted = request.trunk_threads.value_or(0);
      ++trunk;
    }
  }

  const auto mine =
      std::find_if(workers.begin(), workers.end(), [&](const Worker& w) { return w.rank == topology.rank; });
  if (mine == workers.end()) return plan;  // scheduler only
  const std::vector<int>& own = nodes.at(mine->numa_node);
  const int available = static_cast<int>(own.size());
  const int sharers = static_cast<int>(
      std::count_if(workers.begin(), workers.end(), [&](const Worker& w) { return w.numa_node == mine->numa_node; }));
  int first = 0, total = 0;
  for (const Worker& w : workers) {
    if (w.numa_node != mine->numa_node) continue;
    int threads = w.wanted ? w.wanted : std::max(1, available / sharers);
    if (threads > available) {
      if (w.rank == mine->rank)
        plan.warnings.push_back(fmt::format("{} threads were asked for, but NUMA node {} has {} cores: {} threads",
                                            threads, w.numa_node, available, available));
      threads = available;
    }
    if (w.rank < mine->rank) first += threads;
    if (w.rank == mine->rank) plan.threads = threads;
    total += threads;
  }
  plan.numa_node = node_ids.size() > 1 ? mine->numa_node : -1;
  if (total <= available) plan.cores.assign(own.begin() + first, own.begin() + first + plan.threads);
  return plan;
}

}  // namespace kt
