#pragma once

#include <span>
#include <string>
#include <vector>

namespace kt {

// A logical processor.
struct Cpu {
  int id = 0;         // the kernel's number
  int core = 0;       // that it is a hardware thread of: the least number among these, ours or not
  int numa_node = 0;  // whose memory is nearest
};

// The logical processors of a machine that control groups leave to us, ascending by id.
struct Machine {
  std::vector<Cpu> cpus;

  const Cpu* find(int id) const;  // null: not ours
  int cores() const;
  int numa_nodes() const;  // that have any of them
};

// This machine, as hwloc sees it; or one in hwloc's words, "numa:2 core:4 pu:2", for tests.
Machine read_machine(const std::string& synthetic = "");

// As text for other ranks; and the machine of which some ranks see this, each perhaps its own control group's part.
std::string to_text(const Machine& machine);
Machine machine_of(std::span<const std::string> texts);

// Where the calling thread may run: what its launcher bound it to. Ascending.
std::vector<int> allowed_cpus();

// Those of `cpus` that the machine has, in the order in which they are best taken: a hardware thread of each core, then
// the second one of each.
std::vector<int> one_per_core_first(const Machine& machine, std::span<const int> cpus);
int core_count(const Machine& machine, std::span<const int> cpus);  // that they are threads of

std::string as_ranges(std::vector<int> ids);  // "0-3, 8"

}  // namespace kt
