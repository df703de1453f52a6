#include "runtime/plan/expert_use.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "runtime/base/error.h"

namespace kt {
namespace {

constexpr uint64_t kSeed = 1;

// Chances in proportion to weights: those that would pass 1 are chosen by every row, the rest share what is left.
Chances in_proportion(const std::vector<double>& weights, int top_k) {
  Chances chances(weights.size(), 0.0);
  std::vector<size_t> open(weights.size());
  std::iota(open.begin(), open.end(), size_t{0});
  std::sort(open.begin(), open.end(), [&](size_t a, size_t b) { return weights[a] > weights[b]; });
  double left = top_k, sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  for (const size_t e : open) {
    if (sum <= 0) break;
    chances[e] = std::min(1.0, left * weights[e] / sum);
    left -= chances[e], sum -= weights[e];
  }
  return chances;
}

// The chance that none of a row's top_k experts, all different, is in a group that a choice falls into with `share`:
// exact where all experts are alike.
double none_of(double share, size_t experts, int64_t top_k) {
  const double all = static_cast<double>(experts), outside = all * (1 - share);
  double none = 1;
  for (int64_t i = 0; i < top_k; ++i) none *= std::clamp((outside - i) / (all - i), 0.0, 1.0);
  return none;
}

}  // namespace

Chances uniform_chances(const MoeSpec& moe) {
  return Chances(static_cast<size_t>(moe.experts), moe.experts ? static_cast<double>(moe.top_k) / moe.experts : 0.0);
}

Chances skewed_chances(const MoeSpec& moe, double skew) {
  std::vector<double> weights(static_cast<size_t>(moe.experts));
  for (size_t n = 0; n < weights.size(); ++n) weights[n] = std::pow(static_cast<double>(n + 1), -skew);
  std::mt19937_64 random(kSeed);
  for (size_t n = weights.size(); n > 1; --n) std::swap(weights[n - 1], weights[random() % n]);
  return in_proportion(weights, moe.top_k);
}

std::vector<Chances> recorded_chances(const ExpertCounts& counts, const ModelConfig& config) {
  if (counts.layers != static_cast<int>(config.layers.size()) || counts.experts != config.moe.experts)
    fail(kExitUsage, "trace: expected counts of {} layers of {} experts, found {} of {}", config.layers.size(),
         config.moe.experts, counts.layers, counts.experts);
  std::vector<Chances> result(config.layers.size());
  for (size_t l = 0; l < config.layers.size(); ++l) {
    if (config.layers[l].ffn != Ffn::moe) continue;
    const std::span<const uint64_t> of_layer = counts.of_layer(l);
    const std::vector<double> weights(of_layer.begin(), of_layer.end());
    if (std::all_of(weights.begin(), weights.end(), [](double w) { return w == 0; }))
      fail(kExitUsage, "trace: layer {} has experts, and none of them was ever chosen", l);
    result[l] = in_proportion(weights, config.moe.top_k);
  }
  return result;
}

GroupLoads loads_of_groups(std::span<const double> chances, int groups, double rows) {
  const size_t count = static_cast<size_t>(groups);
  GroupLoads loads{.experts = std::vector<double>(count, 0.0),
                   .pairs = std::vector<double>(count, 0.0),
                   .reached = std::vector<double>(count, 0.0)};
  std::vector<double> expert_variance(count, 0.0), pair_variance(count, 0.0);
  const double top_k = std::accumulate(chances.begin(), chances.end(), 0.0);
  for (size_t e = 0; e < chances.size(); ++e) {
    const size_t g = e % count;
    const double q = chances[e], wanted = 1 - std::pow(1 - q, rows);
    loads.experts[g] += wanted, loads.pairs[g] += rows * q;
    expert_variance[g] += wanted * (1 - wanted), pair_variance[g] += rows * q * (1 - q);
  }
  loads.wanted = std::accumulate(loads.experts.begin(), loads.experts.end(), 0.0);
  for (size_t g = 0; g < count; ++g)
    if (loads.pairs[g] > 0)
      loads.reached[g] = rows * (1 - none_of(loads.pairs[g] / (rows * top_k), chances.size(), std::lround(top_k)));
  if (groups == 1 || top_k <= 0) return loads;

  const auto fullest =
      static_cast<size_t>(std::max_element(loads.experts.begin(), loads.experts.end()) - loads.experts.begin());
  const double beyond = largest_normal(groups), held = std::ceil(static_cast<double>(chances.size()) / groups);
  const double most = std::min(held, loads.wanted);
  const double least = std::min(1.0, loads.wanted);  // a row's experts are somewhere
  loads.more_experts =
      std::clamp(beyond * std::sqrt(expert_variance[fullest]), std::max(0.0, least - loads.experts[fullest]),
                 std::max(0.0, most - loads.experts[fullest]));
  loads.more_pairs =
      std::max(0.0, std::min(beyond * std::sqrt(pair_variance[fullest]), rows * top_k - loads.pairs[fullest]));
  return loads;
}

double imbalance(const GroupLoads& loads) {
  if (loads.wanted <= 0) return 1;
  const double most = *std::max_element(loads.experts.begin(), loads.experts.end()) + loads.more_experts;
  return most * static_cast<double>(loads.experts.size()) / loads.wanted;
}

// The largest is below x with the chance that all are; its mean is the integral of what that leaves.
double largest_normal(int n) {
  constexpr double kFrom = -8, kTo = 8;
  constexpr int kSteps = 1600;
  double sum = 0;
  for (int i = 0; i < kSteps; ++i) {
    const double x = kFrom + (i + 0.5) * (kTo - kFrom) / kSteps;
    const double below = std::pow(0.5 * std::erfc(-x / std::sqrt(2.0)), n);
    sum += x > 0 ? 1 - below : -below;
  }
  return sum * (kTo - kFrom) / kSteps;
}

}  // namespace kt
