#pragma once

#include "runtime/policy/expert_load.h"
#include "runtime/policy/expert_policy.h"
#include "runtime/rank/job.h"
#include "runtime/recording/recorder.h"

namespace kt {

// What the options ask of rank 0's expert policy, after set_up.
ExpertPolicyConfig expert_policy_config(const JobRank& job);
// Who of the job computes which part of the routed experts.
ExpertWorkers expert_workers(const JobRank& job);
// The moving average of an earlier run, where one has left it.
void restore_averages(ExpertPolicy& policy, const RunConfig& run);
// What they ask of a recording.
RecorderConfig recorder_config(const RunConfig& run, const ModelConfig& model);

}  // namespace kt
