#include "runtime/comm/cores.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <set>
#include <sstream>

#include "runtime/base/error.h"

namespace kt {
namespace {

constexpr const char* kUnbound = "mpirun --bind-to none, srun --cpu-bind=none (ranks pin their own threads)";

bool contains(std::span<const int> list, int value) { return std::find(list.begin(), list.end(), value) != list.end(); }

struct Core {
  int id = 0;
  std::vector<int> cpus;  // its hardware threads that may be used, at most threads_per_core
};
using CoresByNode = std::map<int, std::vector<Core>>;

CoresByNode cores_of(const Machine& machine, std::span<const int> cpus, int threads_per_core) {
  std::map<int, std::map<int, Core>> found;  // by node and core
  for (const int id : cpus) {
    const Cpu* cpu = machine.find(id);
    if (cpu == nullptr) continue;
    Core& core = found[cpu->numa_node][cpu->core];
    core.id = cpu->core;
    if (static_cast<int>(core.cpus.size()) < threads_per_core) core.cpus.push_back(id);
  }
  CoresByNode nodes;
  for (auto& [node, cores] : found)
    for (auto& [id, core] : cores) nodes[node].push_back(std::move(core));
  return nodes;
}

std::vector<int> keys(const CoresByNode& nodes) {
  std::vector<int> ids;
  for (const auto& [id, cores] : nodes) ids.push_back(id);
  return ids;
}

// A rank that computes.
struct Worker {
  const CoreUser* user;
  CorePlan* plan;
  CoresByNode places = {};
  int node = 0;
  std::vector<Core> cores = {};  // of that node

  int hardware_threads() const {
    int n = 0;
    for (const Core& c : cores) n += static_cast<int>(c.cpus.size());
    return n;
  }
  // Whether both may want a core for long at the same time: trunk and expert ranks wait for each other most of the
  // time.
  bool competes(const Worker& other) const {
    const bool alike = (user->trunk && other.user->trunk) || (user->expert && other.user->expert);
    return alike && std::any_of(cores.begin(), cores.end(), [&](const Core& c) {
             return std::any_of(other.cores.begin(), other.cores.end(), [&](const Core& o) { return o.id == c.id; });
           });
  }
};

// Ranks of one kind with the same processors are spread evenly over the NUMA nodes of these.
int node_of(const Worker& w, std::span<const Worker> workers) {
  int before = 0, alike = 0;
  for (const Worker& other : workers) {
    if (other.user->expert != w.user->expert || other.user->cpus != w.user->cpus) continue;
    before += other.user->rank < w.user->rank;
    ++alike;
  }
  auto place = w.places.begin();
  std::advance(place, static_cast<int64_t>(before) * static_cast<int64_t>(w.places.size()) / alike);
  return place->first;
}

void choose_nodes(std::span<Worker> workers, std::span<const CoreUser> users, const std::vector<int>& given) {
  const auto experts = std::count_if(users.begin(), users.end(), [](const CoreUser& u) { return u.expert; });
  if (!given.empty() && static_cast<int64_t>(given.size()) != experts)
    fail(kExitUsage, "kt-numa-nodes names {} nodes for {} expert ranks of a machine", given.size(), experts);
  for (Worker& w : workers) {
    w.node = node_of(w, workers);
    if (w.user->expert && !given.empty()) {
      const auto before = std::count_if(users.begin(), users.end(),
                                        [&](const CoreUser& u) { return u.expert && u.rank < w.user->rank; });
      w.node = given[static_cast<size_t>(before)];
      if (!w.places.contains(w.node))
        fail(kExitUsage,
             "kt-numa-nodes: NUMA node {} has no core that rank {} may use; its launcher bound it to node {}\n"
             "  try {}, or name another node",
             w.node, w.user->rank, fmt::join(keys(w.places), ", "), kUnbound);
    }
    w.cores = w.places.at(w.node);
  }
}

// Threads that the options ask for; 0: none did.
int wanted(const Worker& w, std::span<const Worker> workers, const CoreRequest& request) {
  int of_experts = 0, of_trunk = 0;
  if (w.user->expert && request.kt_cpuinfer) {
    int experts = 0, before = 0;
    for (const Worker& other : workers) {
      experts += other.user->expert;
      before += other.user->expert && other.user->rank < w.user->rank;
    }
    of_experts = std::max(1, *request.kt_cpuinfer / experts + (before < *request.kt_cpuinfer % experts));
  }
  if (w.user->trunk) of_trunk = request.trunk_threads.value_or(0);
  if (of_experts && of_trunk && of_experts != of_trunk)
    w.plan->warnings.push_back(fmt::format(
        "trunk-threads {} and kt-cpuinfer {} ({} threads here): this rank is trunk and expert rank with one "
        "set of threads: {}",
        of_trunk, *request.kt_cpuinfer, of_experts, std::max(of_experts, of_trunk)));
  return std::max(of_experts, of_trunk);
}

std::string clamped(int threads, const Worker& w, const Machine& machine, int threads_per_core) {
  const auto of_node = [&](const Cpu& c) { return c.numa_node == w.node; };
  std::set<int> all;
  for (const Cpu& c : machine.cpus)
    if (of_node(c)) all.insert(c.core);
  const auto siblings = std::count_if(machine.cpus.begin(), machine.cpus.end(), of_node);
  std::string text =
      fmt::format("{} threads were asked for, but NUMA node {} has {} cores", threads, w.node, all.size());
  if (w.cores.size() < all.size()) text += fmt::format(", of which the launcher left {} to this rank", w.cores.size());
  if (threads_per_core == 1 && siblings > static_cast<int64_t>(all.size()))
    text += fmt::format(" ({} with their hardware threads, which threads-per-core adds)", siblings);
  return text + fmt::format(": {} threads", w.hardware_threads());
}

void count_threads(std::span<Worker> workers, const Machine& machine, const CoreRequest& request) {
  for (Worker& w : workers) {
    const int here = w.hardware_threads();
    const int sharers = static_cast<int>(
        std::count_if(workers.begin(), workers.end(), [&](const Worker& other) { return w.competes(other); }));
    const int asked = wanted(w, workers, request), part = static_cast<int>(w.cores.size()) / sharers;
    w.plan->threads = asked ? asked : std::max(1, part * here / static_cast<int>(w.cores.size()));
    if (w.plan->threads <= here) continue;
    w.plan->warnings.push_back(clamped(w.plan->threads, w, machine, request.threads_per_core));
    w.plan->threads = here;
  }
}

// One thread a core where there is room, for this rank and those that it competes with.
int cores_needed(const Worker& w, std::span<const Worker> workers, int threads_per_core) {
  int64_t threads = 0;
  for (const Worker& other : workers) threads += w.competes(other) ? other.plan->threads : 0;
  if (threads <= static_cast<int64_t>(w.cores.size())) return w.plan->threads;
  return (w.plan->threads + threads_per_core - 1) / threads_per_core;
}

// Those with the fewest cores choose first. Where one finds no room, none is pinned that competes with it.
void pin(std::span<Worker> workers, int threads_per_core) {
  std::vector<Worker*> order;
  for (Worker& w : workers) order.push_back(&w);
  std::stable_sort(order.begin(), order.end(),
                   [](const Worker* a, const Worker* b) { return a->cores.size() < b->cores.size(); });
  std::set<int> by_trunks, by_experts;
  const auto is_free = [&](const Core& c) { return !by_trunks.contains(c.id) && !by_experts.contains(c.id); };
  const auto is_competed_for = [&](const Worker& w, const Core& c) {
    return (w.user->trunk && by_trunks.contains(c.id)) || (w.user->expert && by_experts.contains(c.id));
  };
  std::vector<const Worker*> crowded;
  for (Worker* w : order) {
    const int needed = cores_needed(*w, workers, threads_per_core);
    std::vector<const Core*> own;
    for (const bool shared : {false, true})
      for (const Core& c : w->cores)
        if (static_cast<int>(own.size()) < needed && is_free(c) != shared && !is_competed_for(*w, c)) own.push_back(&c);
    if (static_cast<int>(own.size()) < needed) {
      crowded.push_back(w);
      continue;
    }
    std::vector<int>& cpus = w->plan->cores;
    for (const Core* c : own) {
      if (w->user->trunk) by_trunks.insert(c->id);
      if (w->user->expert) by_experts.insert(c->id);
    }
    for (size_t sibling = 0; sibling < static_cast<size_t>(threads_per_core); ++sibling)
      for (const Core* c : own)
        if (static_cast<int>(cpus.size()) < w->plan->threads && sibling < c->cpus.size())
          cpus.push_back(c->cpus[sibling]);
    if (static_cast<int>(cpus.size()) < w->plan->threads) crowded.push_back(w);
  }
  for (Worker& w : workers)
    if (std::any_of(crowded.begin(), crowded.end(), [&](const Worker* c) { return w.competes(*c); }))
      w.plan->cores.clear();
}

std::vector<int> core_ids(const CoresByNode& places) {
  std::vector<int> ids;
  for (const auto& [node, cores] : places)
    for (const Core& c : cores) ids.push_back(c.id);
  std::sort(ids.begin(), ids.end());
  return ids;
}

std::string rank_list(std::span<const Worker* const> workers) {
  std::string text = workers.size() == 1 ? "rank " : "ranks ";
  for (const Worker* w : workers) text += fmt::format("{}{}", w == workers.front() ? "" : ", ", w->user->rank);
  return text;
}

// A machine with a core for each rank that computes can give each its own; one that has fewer is shared as it must be.
void refuse_shared_cores(std::span<const Worker> workers, const Machine& machine) {
  if (static_cast<int64_t>(workers.size()) > machine.cores()) return;
  for (const Worker& w : workers) {
    const std::vector<int> cores = core_ids(w.places);
    std::vector<const Worker*> within;
    for (const Worker& other : workers) {
      const std::vector<int> others = core_ids(other.places);
      if (std::includes(cores.begin(), cores.end(), others.begin(), others.end())) within.push_back(&other);
    }
    if (within.size() > cores.size())
      fail(kExitUsage, "{} have been bound to {} core{} of a machine that has {}\n  try {}", rank_list(within),
           cores.size(), cores.size() == 1 ? "" : "s", machine.cores(), kUnbound);
  }
}

// A rank's memory is on one NUMA node, so what it was left of another would be lost to everybody.
void refuse_split_ranks(std::span<const Worker> workers, const Machine& machine, const std::vector<int>& given) {
  if (workers.size() < 2 || (!given.empty() && workers.size() == given.size())) return;
  for (const Worker& w : workers)
    if (w.places.size() > 1 && static_cast<int>(core_ids(w.places).size()) < machine.cores()) {
      const Worker* const one[] = {&w};
      fail(kExitUsage, "{} has been bound to cores of NUMA nodes {}: a rank computes on one of them\n  try {}",
           rank_list(one), fmt::join(keys(w.places), " and "), kUnbound);
    }
}

// Said by the first rank that computes.
void warn_of_idle_nodes(std::span<const Worker> workers, const Machine& machine) {
  std::set<int> all, used;
  for (const Cpu& c : machine.cpus) all.insert(c.numa_node);
  for (const Worker& w : workers) used.insert(w.node);
  std::vector<int> idle;
  std::set_difference(all.begin(), all.end(), used.begin(), used.end(), std::back_inserter(idle));
  if (!idle.empty())
    workers.front().plan->warnings.push_back(
        fmt::format("no rank computes on NUMA node{} {} of this machine's {}: cores and memory there are idle; start "
                    "an expert rank "
                    "for each of them",
                    idle.size() == 1 ? "" : "s", fmt::join(idle, ", "), all.size()));
}

// Said by the first rank that computes.
void warn_of_binding(std::span<const Worker> workers, const Machine& machine) {
  std::set<int> left;
  for (const Worker& w : workers) left.insert(w.user->cpus.begin(), w.user->cpus.end());
  const std::vector<int> cpus(left.begin(), left.end());
  if (const int cores = core_count(machine, cpus); cores < machine.cores())
    workers.front().plan->warnings.push_back(fmt::format(
        "the launcher bound the computing ranks of this machine to {} of its {} cores; all are theirs with {}", cores,
        machine.cores(), kUnbound));
}

}  // namespace

std::vector<CorePlan> share_cores(const Machine& machine, std::span<const CoreUser> users, const CoreRequest& request) {
  std::vector<CorePlan> plans(users.size());
  std::vector<Worker> workers;
  std::vector<int> all;
  for (const Cpu& c : machine.cpus) all.push_back(c.id);
  for (size_t i = 0; i < users.size(); ++i) {
    if (!users[i].trunk && (!users[i].expert || users[i].idle)) continue;
    Worker& w = workers.emplace_back(Worker{&users[i], &plans[i]});
    w.places = cores_of(machine, users[i].cpus, request.threads_per_core);
    if (w.places.empty()) w.places = cores_of(machine, all, request.threads_per_core);
  }
  if (workers.empty()) return plans;
  refuse_shared_cores(workers, machine);
  refuse_split_ranks(workers, machine, request.kt_numa_nodes);
  choose_nodes(workers, users, request.kt_numa_nodes);
  count_threads(workers, machine, request);
  pin(workers, request.threads_per_core);
  warn_of_binding(workers, machine);
  if (request.kt_numa_nodes.empty()) warn_of_idle_nodes(workers, machine);
  if (machine.numa_nodes() > 1)
    for (Worker& w : workers) w.plan->numa_node = w.node;
  return plans;
}

CorePlan plan_cores(Transport& transport, const Topology& topology, std::span<const int> idle_ranks,
                    const CoreRequest& request) {
  std::ostringstream mine;
  for (const int cpu : allowed_cpus()) mine << cpu << ' ';
  const std::vector<std::string> of_rank = all_gather(transport, mine.str());
  const std::vector<std::string> seen = all_gather(transport, to_text(read_machine()));
  std::vector<CoreUser> users;
  std::vector<std::string> seen_here;
  size_t own = 0;
  for (int rank = 0; rank < topology.world; ++rank) {
    const auto node = [&](int r) { return topology.node_of[static_cast<size_t>(r)]; };
    if (node(rank) != node(topology.rank)) continue;
    if (rank == topology.rank) own = users.size();
    seen_here.push_back(seen[static_cast<size_t>(rank)]);
    CoreUser& user = users.emplace_back(CoreUser{.rank = rank,
                                                 .trunk = contains(topology.trunk, rank),
                                                 .expert = contains(topology.experts, rank),
                                                 .idle = contains(idle_ranks, rank),
                                                 .cpus = {}});
    std::istringstream words(of_rank[static_cast<size_t>(rank)]);
    for (int cpu = 0; words >> cpu;) user.cpus.push_back(cpu);
  }
  return share_cores(machine_of(seen_here), users, request)[own];
}

}  // namespace kt
