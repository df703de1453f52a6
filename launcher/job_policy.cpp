#include "launcher/job_policy.h"

#include <algorithm>
#include <filesystem>

#include "runtime/base/log.h"
#include "runtime/placement/counts_file.h"

namespace kt {

ExpertPolicyConfig expert_policy_config(const JobRank& job) {
  ExpertPolicyConfig c{
      .experts = job.model().moe.experts,
      .hot = job.hot,
      .prefill_threshold = job.run.prefill_threshold(),
      .max_rows = std::min({job.limits.max_rows, job.engine.kv_blocks * kBlockTokens, job.engine.context_length})};
  for (LayerSpec l : job.model().layers) c.moe.push_back(l.ffn == Ffn::moe);
  const int columns = inter_part(job.model().moe.inter, 0, static_cast<int>(job.topology.trunk.size())).size();
  c.expert_bytes = expert_bytes(job.model(), job.limits.expert_format, columns);
  if (job.run.kt_enable_dynamic_expert_update) c.update = update_rule(job.run.kt_expert_update_rule);
  return c;
}

void restore_averages(ExpertPolicy& policy, const RunConfig& run) {
  std::error_code error;
  if (run.kt_expert_statistics.empty() || !std::filesystem::exists(run.kt_expert_statistics, error)) return;
  policy.restore(read_counts(run.kt_expert_statistics));
  log("averages of expert use are from {}", run.kt_expert_statistics);
}

}  // namespace kt
