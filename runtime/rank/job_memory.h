#pragma once

#include <vector>

#include "runtime/plan/ranks.h"
#include "runtime/rank/job.h"

namespace kt {

// Of what is free on a GPU a rank may take so much: drivers load code when it is first needed, and allocations are
// rounded up.
inline constexpr double kShareOfDevice = 0.95;

// This job as a plan has it, from the options, the model and the topology.
Deployment deployment_of(const JobRank& job);

// What is free for the trunk: by machine, as its first rank finds, or of each trunk rank's GPU. All ranks call it.
std::vector<size_t> free_memory(const JobRank& job);
// What mem-fraction-static leaves of it for the KV cache, if it was given.
void size_kv_cache(JobRank& job, const std::vector<size_t>& available);

// The memory of all ranks of this machine together, and of this rank's GPU, must be there before any of it is taken:
// throws Error(kExitUsage) with the options to lower. All ranks call it.
void check_memory(JobRank& job);

}  // namespace kt
