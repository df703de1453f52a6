#pragma once

#include "runtime/plan/hardware.h"
#include "runtime/rank/job.h"

namespace kt {

// Decides what the trunk runs on, on all ranks alike, and which device of a kind with several this rank takes; says so
// in the log. `device: auto` is the GPUs where each trunk rank has one, else the CPUs. Throws Error(kExitUsage) where
// there are not as many as asked for: the same start fails again, which is no fault of a device. All ranks call it.
void choose_device(JobRank& job);

// The machines' GPUs as a plan has them, by what is free on those of the trunk ranks.
void describe_gpus(const JobRank& job, const std::vector<size_t>& free_bytes, Hardware& machine);

}  // namespace kt
