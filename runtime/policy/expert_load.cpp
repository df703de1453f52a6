#include "runtime/policy/expert_load.h"

#include <algorithm>
#include <functional>
#include <numeric>

#include "runtime/base/prometheus.h"

namespace kt {
namespace {

constexpr size_t kMostSeries = 2048;  // of one metric; with more ranks and layers the layers are added up

double seconds_in_experts(const StepTotals& totals) {
  double seconds = 0;
  for (const PhaseTotals& phase : totals) seconds += phase[StepPart::experts].seconds;
  return seconds;
}

}  // namespace

ExpertLoad::ExpertLoad(ExpertWorkers workers, const HotSets* hot)
    : workers_(std::move(workers)),
      hot_(hot),
      pairs_(static_cast<size_t>(workers_.groups) + 1, std::vector<uint64_t>(static_cast<size_t>(workers_.layers))) {}

void ExpertLoad::before(const StepPlan&, StepOrders& orders) { orders.counts = true; }

void ExpertLoad::after(const StepPlan& plan, const StepReport& report) {
  if (report.counts.empty()) return;
  const std::lock_guard lock(mutex_);
  const size_t experts = static_cast<size_t>(workers_.experts);
  for (size_t layer = 0; layer < static_cast<size_t>(workers_.layers); ++layer) {
    const int32_t* counts = &report.counts[layer * experts];
    uint64_t& on_trunk = pairs_.back()[layer];
    if (plan.orders.layerwise) {
      on_trunk += static_cast<uint64_t>(std::accumulate(counts, counts + experts, int64_t{0}));
      continue;
    }
    const std::vector<int32_t>& hot = (*hot_)[layer];  // ascending
    auto next_hot = hot.begin();
    for (size_t e = 0; e < experts; ++e) {
      const bool is_hot = next_hot != hot.end() && static_cast<size_t>(*next_hot) == e;
      if (is_hot) ++next_hot;
      (is_hot ? on_trunk : pairs_[e % (pairs_.size() - 1)][layer]) += static_cast<uint64_t>(counts[e]);
    }
  }
}

void ExpertLoad::add(const ExpertWorkers::Worker& worker, int kind, std::vector<OfRank>& ranks) const {
  ranks.resize(std::max(ranks.size(), static_cast<size_t>(worker.rank) + 1));
  OfRank& rank = ranks[static_cast<size_t>(worker.rank)];
  rank.by_layer.resize(static_cast<size_t>(workers_.layers));
  const std::vector<uint64_t>& pairs = pairs_[static_cast<size_t>(kind)];
  const uint64_t sum = std::accumulate(pairs.begin(), pairs.end(), uint64_t{0});
  std::transform(pairs.begin(), pairs.end(), rank.by_layer.begin(), rank.by_layer.begin(), std::plus<>());
  rank.pairs += sum;
  rank.flops += 6.0 * workers_.hidden * worker.columns * static_cast<double>(sum);  // three matrices, 2 each
}

std::vector<ExpertLoad::OfRank> ExpertLoad::by_rank() const {
  const std::lock_guard lock(mutex_);
  std::vector<OfRank> ranks;
  for (const ExpertWorkers::Worker& w : workers_.banks) add(w, w.group, ranks);
  for (const ExpertWorkers::Worker& w : workers_.trunk) add(w, workers_.groups, ranks);
  return ranks;
}

std::string ExpertLoad::to_prometheus(const std::vector<StepTotals>& totals) const {
  const std::vector<OfRank> ranks = by_rank();
  PrometheusText text;
  text.counter("expert_tokens_total", "Times that a row chose an expert which the rank computes, or a part of");
  const bool few = ranks.size() * static_cast<size_t>(workers_.layers) <= kMostSeries;
  for (size_t r = 0; r < ranks.size(); ++r) {
    if (!few) text.add({{"layer", "all"}, {"rank", r}}, ranks[r].pairs);
    for (size_t l = 0; few && l < ranks[r].by_layer.size(); ++l)
      if (const uint64_t pairs = ranks[r].by_layer[l]) text.add({{"layer", l}, {"rank", r}}, pairs);
  }

  uint64_t most = 0, all = 0;
  for (const ExpertWorkers::Worker& w : workers_.banks) {
    most = std::max(most, ranks[static_cast<size_t>(w.rank)].pairs);
    all += ranks[static_cast<size_t>(w.rank)].pairs;
  }
  const double mean = static_cast<double>(all) / static_cast<double>(std::max<size_t>(workers_.banks.size(), 1));
  text.gauge("expert_imbalance_ratio", "Those of the expert rank that has most, over the mean of all; 1: even",
             all ? static_cast<double>(most) / mean : 1.0);

  text.gauge("cpu_gemm_gflops", "Rate at which a rank has computed routed experts, 1e9 operations a second");
  for (size_t r = 0; r < std::min(ranks.size(), totals.size()); ++r)
    if (const double seconds = seconds_in_experts(totals[r]); seconds > 0 && ranks[r].flops > 0)
      text.add({{"rank", r}}, ranks[r].flops / seconds / 1e9);
  return text.take();
}

}  // namespace kt
