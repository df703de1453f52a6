#pragma once

#include <filesystem>
#include <string>

namespace kt {

// A cluster of equal machines, as `ktmpi plan` needs to know it. The fields are the keys of the YAML file with
// underscores for dashes; a GB is 1e9 bytes. 0 is "not known": what depends on it is left out.
struct Hardware {
  std::string name;
  int nodes = 1;
  int nodes_per_host = 1;  // virtual machines, one after the other, that share cores and memory bandwidth of a host

  // Of each machine:
  int numa_nodes = 1;
  int cores = 1;
  double memory_gb = 0;             // for the ranks
  double memory_bandwidth_gbs = 0;  // all sockets together, as measured by reading
  double cpu_tflops = 0;            // matrix products in the experts' format, all cores together
  double disk_gbs = 0;
  int gpus = 0;

  // Of each GPU. memory: the nominal size, which leaves what a card has beyond it to driver, context and libraries.
  double gpu_memory_gb = 0;
  double gpu_bandwidth_gbs = 0;
  double gpu_tflops = 0;    // dense BF16
  double gpu_link_gbs = 0;  // from memory to one GPU

  // Between machines:
  double network_gbs = 0;
  double network_latency_us = 0;

  int host_of(int node) const { return node / nodes_per_host; }
  int hosts() const { return host_of(nodes - 1) + 1; }
};

// Throws Error(kExitUsage) with file and line for what cannot be read, unknown keys and values out of range.
Hardware read_hardware(const std::filesystem::path& file);

// Cores, NUMA nodes and available memory of the machine that this runs on; rates are not known.
Hardware this_machine();

}  // namespace kt
