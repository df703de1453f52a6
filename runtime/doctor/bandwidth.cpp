#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <thread>

#include "kernels/buffer.h"
#include "kernels/ops.h"
#include "runtime/doctor/checks.h"
#include "runtime/doctor/system_files.h"
#include "runtime/rank/machine_limits.h"

namespace kt {
namespace {

// A thread on each core of a NUMA node.
struct Readers {
  int node = 0;
  std::vector<int> cores;
};

std::vector<Readers> readers_of(const Site& site) {
  std::map<int, std::vector<int>> cpus;  // by node
  for (const int id : site.allowed_cpus)
    if (const Cpu* cpu = site.machine.find(id)) cpus[cpu->numa_node].push_back(id);
  std::vector<Readers> readers;
  for (const auto& [node, ids] : cpus) {
    std::vector<int> cores = one_per_core_first(site.machine, ids);
    cores.resize(static_cast<size_t>(core_count(site.machine, ids)));
    readers.push_back({node, std::move(cores)});
  }
  return readers;
}

// GB/s. On a thread of its own, as a pool pins the one that makes it.
double measure(const Readers& readers, size_t bytes) {
  double gbs = 0;
  std::thread([&] {
    ThreadPool pool(static_cast<int>(readers.cores.size()), readers.cores);
    const Buffer memory(bytes, readers.node, pool);
    gbs = measure_dram(pool, *available_ops().back(), memory);
  }).join();
  return gbs;
}

}  // namespace

Findings check_bandwidth(const Site& site) {
  constexpr int64_t kLeast = int64_t{1} << 30, kOfCore = int64_t{64} << 20;
  const std::vector<Readers> nodes = readers_of(site);
  double sum = 0;
  size_t threads = 0;
  std::string each;
  for (const Readers& readers : nodes) {
    // No cache holds so much.
    const int64_t wanted = std::max(kLeast, kOfCore * static_cast<int64_t>(readers.cores.size()));
    if (memory_left(site) < 2 * wanted)
      return {note("not measured: too little memory is available", "end what holds memory")};
    const double gbs = measure(readers, static_cast<size_t>(wanted));
    each += fmt::format("{}{:.1f}", each.empty() ? "" : " + ", gbs);
    sum += gbs;
    threads += readers.cores.size();
  }
  std::string what = fmt::format("{:.1f} GB/s read by {} thread{}", sum, threads, threads == 1 ? "" : "s");
  if (nodes.size() > 1) what += fmt::format(" ({} by NUMA node, one after the other)", each);
  const std::vector<MemoryModule> modules = read_memory_modules(site.root);
  if (modules.empty()) return {ok(what + "; what the channels could give is not known here")};
  const double most = std::accumulate(modules.begin(), modules.end(), 0.0,
                                      [](double s, const MemoryModule& m) {
                                        return s + static_cast<double>(m.mega_transfers) * m.bytes_wide;
                                      }) /
                      1e3;
  what += fmt::format("; {} modules could give {:.0f} GB/s, had each a channel of its own", modules.size(), most);
  if (sum < 0.4 * most)
    return {note(what, "end what else runs; look whether modules share channels, and whether all cores are used")};
  return {ok(what)};
}

}  // namespace kt
