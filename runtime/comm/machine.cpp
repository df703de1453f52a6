#include "runtime/comm/machine.h"

#include <hwloc.h>
#include <sched.h>

#include <algorithm>
#include <map>
#include <memory>
#include <set>
#include <sstream>

#include "runtime/base/error.h"

namespace kt {
namespace {

struct Destroy {
  void operator()(hwloc_topology_t t) const { hwloc_topology_destroy(t); }
};
using Topo = std::unique_ptr<hwloc_topology, Destroy>;

Topo load(const std::string& synthetic) {
  hwloc_topology_t topology = nullptr;
  if (hwloc_topology_init(&topology) != 0) fail(kExitTryAgain, "hwloc: no memory for the machine's description");
  Topo owner(topology);
  if (!synthetic.empty() && hwloc_topology_set_synthetic(topology, synthetic.c_str()) != 0)
    fail(kExitUsage, "hwloc does not understand the machine '{}'", synthetic);
  if (hwloc_topology_load(topology) != 0) fail(kExitTryAgain, "hwloc cannot read this machine's processors");
  return owner;
}

}  // namespace

const Cpu* Machine::find(int id) const {
  const auto at =
      std::lower_bound(cpus.begin(), cpus.end(), id, [](const Cpu& c, int wanted) { return c.id < wanted; });
  return at != cpus.end() && at->id == id ? &*at : nullptr;
}

int Machine::cores() const {
  std::set<int> cores;
  for (const Cpu& c : cpus) cores.insert(c.core);
  return static_cast<int>(cores.size());
}

int Machine::numa_nodes() const {
  std::set<int> nodes;
  for (const Cpu& c : cpus) nodes.insert(c.numa_node);
  return static_cast<int>(nodes.size());
}

Machine read_machine(const std::string& synthetic) {
  const Topo topology = load(synthetic);
  Machine machine;
  for (hwloc_obj_t pu = nullptr; (pu = hwloc_get_next_obj_by_type(topology.get(), HWLOC_OBJ_PU, pu)) != nullptr;) {
    // Some virtual machines know no cores: then each logical processor is one.
    hwloc_obj_t core = hwloc_get_ancestor_obj_by_type(topology.get(), HWLOC_OBJ_CORE, pu);
    if (core == nullptr) core = pu;
    machine.cpus.push_back({.id = static_cast<int>(pu->os_index),
                            .core = hwloc_bitmap_first(core->complete_cpuset),
                            .numa_node = std::max(0, pu->nodeset ? hwloc_bitmap_first(pu->nodeset) : 0)});
  }
  std::sort(machine.cpus.begin(), machine.cpus.end(), [](const Cpu& a, const Cpu& b) { return a.id < b.id; });
  return machine;
}

std::string to_text(const Machine& machine) {
  std::string text;
  for (const Cpu& c : machine.cpus) text += fmt::format("{} {} {} ", c.id, c.core, c.numa_node);
  return text;
}

Machine machine_of(std::span<const std::string> texts) {
  std::map<int, Cpu> cpus;
  for (const std::string& text : texts) {
    std::istringstream words(text);
    for (Cpu c; words >> c.id >> c.core >> c.numa_node;) cpus[c.id] = c;
  }
  Machine machine;
  for (const auto& [id, cpu] : cpus) machine.cpus.push_back(cpu);
  return machine;
}

std::vector<int> allowed_cpus() {
  std::vector<int> cpus;
  for (int most = CPU_SETSIZE; cpus.empty() && most <= 1 << 20; most *= 2) {  // the kernel refuses sets that are short
    const std::unique_ptr<cpu_set_t, void (*)(cpu_set_t*)> set(CPU_ALLOC(static_cast<size_t>(most)),
                                                               [](cpu_set_t* s) { CPU_FREE(s); });
    const size_t bytes = CPU_ALLOC_SIZE(static_cast<size_t>(most));
    CPU_ZERO_S(bytes, set.get());
    if (sched_getaffinity(0, bytes, set.get()) != 0) continue;
    for (int c = 0; c < most; ++c)
      if (CPU_ISSET_S(static_cast<size_t>(c), bytes, set.get())) cpus.push_back(c);
  }
  if (cpus.empty()) cpus.push_back(0);
  return cpus;
}

std::vector<int> one_per_core_first(const Machine& machine, std::span<const int> cpus) {
  std::map<int, int> threads;              // of each core, so far
  std::vector<std::pair<int, int>> order;  // how many of its core come before, id
  for (const int id : cpus)
    if (const Cpu* cpu = machine.find(id)) order.push_back({threads[cpu->core]++, id});
  std::sort(order.begin(), order.end());
  std::vector<int> ids;
  for (const auto& [before, id] : order) ids.push_back(id);
  return ids;
}

int core_count(const Machine& machine, std::span<const int> cpus) {
  std::set<int> cores;
  for (const int id : cpus)
    if (const Cpu* cpu = machine.find(id)) cores.insert(cpu->core);
  return static_cast<int>(cores.size());
}

std::string as_ranges(std::vector<int> ids) {
  std::sort(ids.begin(), ids.end());
  std::string text;
  for (size_t first = 0, last = 0; first < ids.size(); first = last + 1) {
    last = first;
    while (last + 1 < ids.size() && ids[last + 1] == ids[last] + 1) ++last;
    text += fmt::format("{}{}", text.empty() ? "" : ", ", ids[first]);
    if (last > first) text += fmt::format("-{}", ids[last]);
  }
  return text;
}

}  // namespace kt
