#include "runtime/policy/expert_policy.h"

#include <algorithm>

#include "runtime/base/log.h"

namespace kt {
namespace {

// Of prompts: a slice of one token past the start goes on with an answer (or is a prompt's last token, which is as
// short).
int prefill_rows(const StepPlan& plan) {
  int rows = 0;
  for (const SeqSlice& s : plan.slices)
    if (s.count > 1 || s.first == 0) rows += s.count;
  return rows;
}

// A prompt of that many tokens, alone, that wants no logits.
StepPlan probe(int rows) {
  StepPlan plan;
  plan.slices.push_back({.count = rows, .logits_from = rows});
  for (int i = 0; i < rows; ++i) plan.tokens.push_back(i * 7 % 64);
  for (int b = 0; b * kBlockTokens < rows; ++b) plan.blocks.push_back(b);
  plan.block_begin = {0, static_cast<int32_t>(plan.blocks.size())};
  return plan;
}

}  // namespace

ExpertPolicy::ExpertPolicy(ExpertPolicyConfig config)
    : config_(std::move(config)),
      update_(config_.update.value_or(UpdateRule::chunk), config_.hot, config_.experts),
      path_(config_.prefill_threshold) {
  for (int layer = 0; layer < static_cast<int>(config_.hot.size()); ++layer)
    for (int32_t e : config_.hot[static_cast<size_t>(layer)]) first_moves_.push_back({layer, e, -1});
  stats_.experts = std::count(config_.moe.begin(), config_.moe.end(), true) * static_cast<int64_t>(config_.experts);
}

void ExpertPolicy::before(const StepPlan& plan, StepOrders& orders) {
  const std::lock_guard lock(mutex_);
  orders.moves.insert(orders.moves.end(), first_moves_.begin(), first_moves_.end());
  first_moves_.clear();
  if (config_.update) {
    orders.counts = true;
    const size_t limit = *config_.update == UpdateRule::average
                             ? std::max<size_t>(1, kMoveBytes / std::max<size_t>(1, config_.expert_bytes))
                             : static_cast<size_t>(stats_.experts);
    for (const Exchange& x : update_.take(limit)) orders.moves.push_back({x.layer, x.in, x.out});
  }
  choice_ = path_.choose(prefill_rows(plan));
  if (forced_) choice_ = {.path = *forced_, .why = "measured"};
  orders.layerwise = choice_.path == Path::layerwise;
  begin_ = Clock::now();
}

void ExpertPolicy::after(const StepPlan& plan, const StepReport& report) {
  const std::lock_guard lock(mutex_);
  const double seconds = std::chrono::duration<double>(Clock::now() - begin_).count();
  const int prefill = prefill_rows(plan);
  if (config_.update && !forced_) update_.observe(report.counts, plan.rows(), choice_.path == Path::layerwise);
  if (path_.automatic() && (forced_ || (prefill > 0 && prefill == plan.rows() && plan.slices.size() == 1 &&
                                        plan.slices[0].first == 0 && prefill == config_.max_rows)))
    path_.measured(choice_.path, prefill, seconds);
  if (forced_) return;
  stats_.pairs += static_cast<uint64_t>(report.pairs);
  stats_.hot_pairs += static_cast<uint64_t>(report.hot_pairs);
  stats_.late_pairs += static_cast<uint64_t>(report.late_pairs);
  stats_.moved_bytes += static_cast<uint64_t>(report.moved_bytes);
  stats_.streamed_bytes += static_cast<uint64_t>(report.streamed_bytes);
  stats_.weight += report.weight;
  stats_.late_weight += report.late_weight;
  stats_.exchanges = update_.exchanges();
  if (prefill > 0) {
    ++stats_.prefill_steps[{choice_.path == Path::layerwise ? "layerwise" : "hybrid", std::string(choice_.why)}];
    stats_.hybrid_s = choice_.hybrid_s;
    stats_.layerwise_s = choice_.layerwise_s;
  }
}

void ExpertPolicy::prepare(StepRunner& runner) {
  if (!first_moves_.empty()) {
    const size_t count = first_moves_.size();
    const Clock::time_point begin = Clock::now();
    runner.run(StepPlan{});
    log("{} of {} experts are hot, brought in {:.2f} s", count, stats_.experts,
        std::chrono::duration<double>(Clock::now() - begin).count());
  }
  if (path_.automatic()) measure_paths(runner);
}

// Each size once to warm up and once to measure, on each path.
void ExpertPolicy::measure_paths(StepRunner& runner) {
  for (int rows = std::min(kBlockTokens, config_.max_rows);; rows = std::min(4 * rows, config_.max_rows)) {
    for (Path path : {Path::hybrid, Path::layerwise})
      for (int i = 0; i < 2; ++i) {
        const std::optional<PrefillPath> before = i == 0 ? std::optional(path_) : std::nullopt;
        forced_ = path;
        runner.run(probe(rows));
        if (before) path_ = *before;
      }
    log("prompts of {} tokens: hybrid {:.3f} s, layerwise {:.3f} s", rows, path_.estimate(Path::hybrid, rows),
        path_.estimate(Path::layerwise, rows));
    if (rows == config_.max_rows) break;
  }
  forced_.reset();
}

ExpertStats ExpertPolicy::stats() const {
  const std::lock_guard lock(mutex_);
  ExpertStats s = stats_;
  for (const auto& layer : update_.hot()) {
    s.hot_experts += static_cast<int64_t>(layer.size());
    s.hot_per_layer.push_back(static_cast<int>(layer.size()));
  }
  return s;
}

void ExpertPolicy::restore(const ExpertCounts& averages) {
  const std::lock_guard lock(mutex_);
  update_.restore(averages);
}

ExpertCounts ExpertPolicy::averages() const {
  const std::lock_guard lock(mutex_);
  return update_.averages();
}

}  // namespace kt
