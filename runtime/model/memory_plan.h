#pragma once

#include <string>

#include "runtime/comm/topology.h"
#include "runtime/model/cache.h"
#include "runtime/model/trunk.h"

namespace kt {

// The memory that one rank will take, by purpose, in bytes: known before any of it is taken.
struct MemoryPlan {
  size_t trunk_weights = 0, experts = 0;
  size_t cache = 0;  // keys, values and recurrent states
  size_t step = 0;   // buffers of a forward pass
  size_t total() const { return trunk_weights + experts + cache + step; }
};
// `columns` is the rank's part of each expert (empty: no expert rank), in the format `experts`; trunk ranks only count
// the rest.
MemoryPlan plan_memory(const ModelConfig& config, bool trunk, const TrunkShare& share, Range columns, Format experts,
                       CacheLimits cache, TrunkLimits limits, int trunk_ranks);
std::string describe(const MemoryPlan& plan);  // "trunk 1.20 + experts 3.40 + cache 0.10 + steps 0.20 = 4.90 GB"

// What this machine can still give to processes, in bytes: MemAvailable, or what its control group leaves if that is
// less.
size_t available_memory();

}  // namespace kt
