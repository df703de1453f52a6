#include "runtime/policy/expert_policy.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "runtime/base/log.h"

namespace kt {
namespace {

// Sizes of the prompts by which both paths are measured: this many tokens, then four times as many, up to a chunk; and
// where the faster one changes, the size between, as often as kRefinements. Each path and size takes so many steps,
// more while all of them together take less than kProbeSeconds, or kCloseSeconds where one path takes less than kClose
// times as long as the other: there a small error is a wrong choice.
constexpr int kFirstProbe = 16, kRefinements = 2, kLeastProbes = 3, kMostProbes = 10;
constexpr double kProbeSeconds = 0.4, kClose = 1.3, kCloseSeconds = 10;

// Of prompts: a slice of one token past the start goes on with an answer (or is a prompt's last token, which is as
// short).
int prefill_rows(const StepPlan& plan) {
  int rows = 0;
  for (const SeqSlice& s : plan.slices)
    if (s.count > 1 || s.first == 0) rows += s.count;
  return rows;
}

// A prompt of that many tokens, alone, that wants its last token's logits. The tokens are spread over the vocabulary
// (a multiplicative hash), so that they choose many experts, as prompts do.
StepPlan probe(int rows, int vocab) {
  StepPlan plan;
  plan.slices.push_back({.count = rows, .logits_from = rows - 1});
  for (uint32_t i = 0; i < static_cast<uint32_t>(rows); ++i)
    plan.tokens.push_back(static_cast<int32_t>(i * 2654435761u % static_cast<uint32_t>(vocab)));
  for (int b = 0; b * kBlockTokens < rows; ++b) plan.blocks.push_back(b);
  plan.block_begin = {0, static_cast<int32_t>(plan.blocks.size())};
  return plan;
}

}  // namespace

ExpertPolicy::ExpertPolicy(ExpertPolicyConfig config)
    : config_(std::move(config)),
      update_(config_.update.value_or(UpdateRule::chunk), config_.hot, config_.experts),
      hot_(config_.hot),
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
    order_exchanges(orders);
  }
  choice_ = path_.choose(prefill_rows(plan));
  if (forced_ && choice_.why != "decode") choice_ = {.path = *forced_, .why = "forced"};
  orders.layerwise = choice_.path == Path::layerwise;
  orders.sliced = plan.rows() < config_.sliced_below;
  begin_ = Clock::now();
}

// Those that come beside the steps take over when all trunk ranks have them; for tests (shuffle) before the very next
// step, which waits for them.
void ExpertPolicy::order_exchanges(StepOrders& orders) {
  const auto order = [&](const std::vector<Exchange>& exchanges, std::vector<ExpertMove>& moves) {
    for (const Exchange& x : exchanges) moves.push_back({x.layer, x.in, x.out});
  };
  const auto note = [&](const std::vector<Exchange>& exchanges) {
    for (const Exchange& x : exchanges) {
      apply(x, hot_);
      stats_.exchanges += x.in >= 0;
    }
  };
  if (!config_.spare) {
    const std::vector<Exchange> all = update_.take(static_cast<size_t>(stats_.experts));
    order(all, orders.moves);
    return note(all);
  }
  if (!coming_.empty() && (arrived_ || config_.update == UpdateRule::shuffle)) {
    orders.take_over = true;
    note(coming_);
    coming_.clear();
    arrived_ = false;
  }
  if (!coming_.empty()) return;
  coming_ = update_.take(static_cast<size_t>(config_.spare));
  order(coming_, orders.bring);
}

void ExpertPolicy::after(const StepPlan& plan, const StepReport& report) {
  const std::lock_guard lock(mutex_);
  const double seconds = std::chrono::duration<double>(Clock::now() - begin_).count();
  const int prefill = prefill_rows(plan);
  arrived_ = report.arrived;
  if (forced_) return;
  const bool qualifies =
      config_.update_threshold > 0 ? prefill >= config_.update_threshold : choice_.path == Path::layerwise;
  if (config_.update) update_.observe(report.counts, plan.rows(), qualifies);
  if (path_.automatic() && prefill == config_.max_rows && prefill == plan.rows() && plan.slices.size() == 1 &&
      plan.slices[0].first == 0)
    path_.measured(choice_.path, prefill, seconds);
  ++(plan.orders.sliced ? stats_.sliced_steps : stats_.whole_steps);
  stats_.pairs += static_cast<uint64_t>(report.pairs);
  stats_.hot_pairs += static_cast<uint64_t>(report.hot_pairs);
  stats_.late_pairs += static_cast<uint64_t>(report.late_pairs);
  stats_.moved_bytes += static_cast<uint64_t>(report.moved_bytes);
  stats_.streamed_bytes += static_cast<uint64_t>(report.streamed_bytes);
  stats_.weight += report.weight;
  stats_.late_weight += report.late_weight;
  if (prefill > 0) {
    ++stats_.prefill_steps[{choice_.path == Path::layerwise ? "layerwise" : "hybrid", std::string(choice_.why)}];
    stats_.hybrid_s = choice_.hybrid_s;
    stats_.layerwise_s = choice_.layerwise_s;
  }
}

void ExpertPolicy::take_whole_experts() {
  const std::lock_guard lock(mutex_);
  config_.sliced_below = 0;
}

void ExpertPolicy::prepare(StepRunner& runner) {
  if (!first_moves_.empty()) {
    const size_t count = first_moves_.size();
    const Clock::time_point begin = Clock::now();
    runner.run(StepPlan{});
    log("{} of {} experts are hot, brought in {:.2f} s", count, stats_.experts,
        std::chrono::duration<double>(Clock::now() - begin).count());
  }
  if (!path_.automatic()) return;
  int rows = std::min(kFirstProbe, config_.max_rows);
  measure_paths(runner, rows);
  for (int below = rows; rows < config_.max_rows; below = rows) {
    rows = std::min(4 * rows, config_.max_rows);
    measure_paths(runner, rows);
    measure_between(runner, below, rows, kRefinements);
  }
  const int from = path_.layerwise_from(config_.max_rows);
  log("prompts are layerwise {}", from ? fmt::format("from {} tokens on", from) : "never");
}

// By turns, so that whatever else the machine does meets both alike. Of each path the fastest step counts: that only
// ever adds time.
void ExpertPolicy::measure_paths(StepRunner& runner, int rows) {
  const StepPlan plan = probe(rows, runner.vocab());
  double fastest[] = {std::numeric_limits<double>::max(), std::numeric_limits<double>::max()}, all = 0;
  const auto enough = [&] {
    return std::max(fastest[0], fastest[1]) < kClose * std::min(fastest[0], fastest[1]) ? kCloseSeconds : kProbeSeconds;
  };
  for (int i = 0; i < kLeastProbes || (i < kMostProbes && all < enough()); ++i)
    for (Path path : {Path::hybrid, Path::layerwise}) {
      force(path);
      const Clock::time_point begin = Clock::now();
      runner.run(plan);
      const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
      fastest[static_cast<int>(path)] = std::min(fastest[static_cast<int>(path)], seconds);
      all += seconds;
    }
  force(std::nullopt);
  for (Path path : {Path::hybrid, Path::layerwise}) path_.measured(path, rows, fastest[static_cast<int>(path)]);
  log("prompts of {} tokens: hybrid {:.3f} s, layerwise {:.3f} s", rows, path_.estimate(Path::hybrid, rows),
      path_.estimate(Path::layerwise, rows));
}

void ExpertPolicy::measure_between(StepRunner& runner, int below, int above, int times) {
  const int rows = static_cast<int>(std::sqrt(static_cast<double>(below) * above));
  if (!times || rows <= below || path_.choose(below).path == path_.choose(above).path) return;
  measure_paths(runner, rows);
  measure_between(runner, below, rows, times - 1);
  measure_between(runner, rows, above, times - 1);
}

void ExpertPolicy::force(std::optional<Path> path) {
  const std::lock_guard lock(mutex_);
  forced_ = path;
}

PrefillPath ExpertPolicy::path() const {
  const std::lock_guard lock(mutex_);
  return path_;
}

ExpertStats ExpertPolicy::stats() const {
  const std::lock_guard lock(mutex_);
  ExpertStats s = stats_;
  s.replicated = config_.replicated;
  s.sliced_below = config_.sliced_below;
  s.layerwise_from = path_.layerwise_from(config_.max_rows);
  for (const auto& layer : hot_) {
    s.hot_experts += static_cast<int64_t>(layer.size());
    s.hot_per_layer.push_back(static_cast<int>(layer.size()));
  }
  return s;
}

ExpertMap ExpertPolicy::map() const {
  const std::lock_guard lock(mutex_);
  return {.moe = config_.moe, .hot = hot_, .use = update_.averages(), .counted = config_.update == UpdateRule::average};
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
