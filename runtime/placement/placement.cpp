#include "runtime/placement/placement.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "runtime/base/error.h"
#include "runtime/placement/strategies.h"

namespace kt {
namespace {

struct Strategy {
  std::string_view name;
  HotSets (*place)(const PlacementRequest&);
};

constexpr Strategy kStrategies[] = {
    {"uniform", place_uniform},
    {"frequency", place_by_frequency},
    {"front-loading", place_in_front},
    {"random", place_at_random},
};

constexpr auto kNames = [] {
  std::array<std::string_view, std::size(kStrategies)> names;
  std::transform(std::begin(kStrategies), std::end(kStrategies), names.begin(), [](Strategy s) { return s.name; });
  return names;
}();

void check(const PlacementRequest& request) {
  const int64_t layers = std::count(request.moe.begin(), request.moe.end(), true), all = layers * request.experts;
  if (request.budget < 0 || request.budget > all)
    fail(kExitUsage, "{} hot experts: {} MoE layers of {} experts have 0 to {}", request.budget, layers,
         request.experts, all);
  if (!request.counts) return;
  const ExpertCounts& counts = *request.counts;
  if (counts.layers != static_cast<int>(request.moe.size()) || counts.experts != request.experts)
    fail(kExitUsage,
         "the counts are of {} layers of {} experts, the model has {} layers of {}\n"
         "  give counts that were recorded with this model",
         counts.layers, counts.experts, request.moe.size(), request.experts);
}

}  // namespace

HotSets place(std::string_view strategy, const PlacementRequest& request) {
  const auto found =
      std::find_if(std::begin(kStrategies), std::end(kStrategies), [&](Strategy s) { return s.name == strategy; });
  if (found == std::end(kStrategies))
    fail(kExitUsage, "there is no placement strategy \"{}\"; there are {}", strategy, fmt::join(kNames, ", "));
  check(request);
  return found->place(request);
}

std::span<const std::string_view> placement_strategies() { return kNames; }

int64_t hot_budget(std::optional<int> per_layer, std::optional<double> ratio, int moe_layers, int experts) {
  const int64_t all = int64_t{moe_layers} * experts;
  if (ratio) {
    if (!(*ratio >= 0.0 && *ratio <= 1.0)) fail(kExitUsage, "kt-gpu-experts-ratio {}: expected 0 to 1", *ratio);
    // 0.29 of 100 is 29, although 0.29 * 100 is a little less in binary.
    return static_cast<int64_t>(std::floor(*ratio * static_cast<double>(all) + 1e-6));
  }
  if (per_layer.value_or(0) < 0 || per_layer.value_or(0) > experts)
    fail(kExitUsage, "kt-num-gpu-experts {}: a MoE layer of this model has {} experts, expected 0 to {}", *per_layer,
         experts, experts);
  return int64_t{moe_layers} * per_layer.value_or(0);
}

double hit_rate(const HotSets& hot, const ExpertCounts& counts) {
  uint64_t hits = 0, all = 0;
  for (const uint64_t n : counts.counts) all += n;
  for (size_t layer = 0; layer < hot.size(); ++layer)
    for (const int32_t expert : hot[layer]) hits += counts.of_layer(layer)[static_cast<size_t>(expert)];
  return all ? static_cast<double>(hits) / static_cast<double>(all) : 0.0;
}

std::vector<ExpertAt> all_experts(const PlacementRequest& request) {
  std::vector<ExpertAt> all;
  for (size_t layer = 0; layer < request.moe.size(); ++layer)
    for (int32_t expert = 0; request.moe[layer] && expert < request.experts; ++expert) all.push_back({layer, expert});
  return all;
}

HotSets take_first(const PlacementRequest& request, std::span<const ExpertAt> order) {
  HotSets hot(request.moe.size());
  for (const ExpertAt e : order.first(static_cast<size_t>(request.budget))) hot[e.layer].push_back(e.expert);
  for (std::vector<int32_t>& experts : hot) std::sort(experts.begin(), experts.end());
  return hot;
}

}  // namespace kt
