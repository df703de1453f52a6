#include "runtime/rank/job_policy.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "runtime/base/log.h"
#include "runtime/recording/counts_file.h"

namespace kt {

ExpertPolicyConfig expert_policy_config(const JobRank& job) {
  ExpertPolicyConfig c{
      .experts = job.model().moe.experts,
      .hot = job.hot,
      .replicated = job.topology.replicated,
      .spare = job.limits.spare_experts,
      .sliced_below = job.sliced.below,
      .prefill_threshold = job.run.prefill_threshold(),
      .update_threshold = job.run.update_threshold(),
      .max_rows = std::min({job.limits.max_rows, job.engine.kv_blocks * kBlockTokens, job.engine.context_length})};
  for (LayerSpec l : job.model().layers) c.moe.push_back(l.ffn == Ffn::moe);
  if (job.run.kt_enable_dynamic_expert_update) c.update = update_rule(job.run.kt_expert_update_rule);
  return c;
}

ExpertWorkers expert_workers(const JobRank& job) {
  const ModelConfig& model = job.model();
  const Topology& topology = job.topology;
  ExpertWorkers w{
      .layers = static_cast<int>(model.layers.size()), .experts = model.moe.experts, .hidden = model.hidden};
  const std::vector<ExpertShare> shares = expert_shares(model.moe.inter, topology.group_of, topology.replicated);
  const int groups = shares.empty() ? 1 : shares[0].groups;
  for (size_t i = 0; i < shares.size(); ++i) {
    if (topology.replicated)  // on average, whichever way steps go
      w.banks.push_back({topology.experts[i], shares[i].columns() / groups, 0});
    else
      w.banks.push_back({topology.experts[i], shares[i].columns(), shares[i].group});
  }
  w.groups = topology.replicated ? 1 : groups;
  const int trunks = static_cast<int>(topology.trunk.size());
  for (int i = 0; i < trunks; ++i)
    w.trunk.push_back(
        {topology.trunk[static_cast<size_t>(i)], static_cast<int>(inter_part(model.moe.inter, i, trunks).size())});
  return w;
}

void restore_averages(ExpertPolicy& policy, const RunConfig& run) {
  std::error_code error;
  if (run.kt_expert_statistics.empty() || !std::filesystem::exists(run.kt_expert_statistics, error)) return;
  policy.restore(read_counts(run.kt_expert_statistics));
  log("averages of expert use are from {}", run.kt_expert_statistics);
}

RecorderConfig recorder_config(const RunConfig& run, const ModelConfig& model) {
  const std::string& mode = run.expert_distribution_recorder_mode;
  const char* folder = std::getenv("SGLANG_EXPERT_DISTRIBUTION_RECORDER_DIR");
  RecorderConfig config{.hot_sets = run.record_kt_gpu_expert_distribution,
                        .passes = run.expert_distribution_recorder_buffer_size,
                        .folder = folder && *folder ? folder : "/tmp",
                        .experts = model.moe.experts,
                        .top_k = model.moe.top_k};
  if (mode == "per_pass") config.mode = RecorderMode::per_pass;
  if (mode == "per_token") config.mode = RecorderMode::per_token;
  for (const LayerSpec& layer : model.layers) config.moe.push_back(layer.ffn == Ffn::moe);
  return config;
}

}  // namespace kt
