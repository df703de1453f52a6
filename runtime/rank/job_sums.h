#pragma once

#include "runtime/rank/job.h"

namespace kt {

// Decides who adds the trunk ranks' sums, on all ranks alike, and says so in the log where it was to be chosen: NCCL,
// if their devices are GPUs, it is there and all have joined it, else the host. `trunk-sums: nccl` without it is
// Error(kExitUsage). All ranks call it, after choose_device.
void choose_sums(JobRank& job);

}  // namespace kt
