#include "runtime/policy/expert_metrics.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "runtime/base/prometheus.h"

namespace kt {
namespace {

double ratio(double part, double whole) { return whole > 0 ? part / whole : 0.0; }

}  // namespace

std::string to_prometheus(const ExpertStats& s) {
  PrometheusText text;
  text.gauge("experts", "Routed experts of all layers", s.experts);
  text.gauge("hot_experts", "Of them, held by the trunk ranks", s.hot_experts);
  text.gauge("hot_experts_of_layer", "Hot experts of each layer that has any");
  for (size_t l = 0; l < s.hot_per_layer.size(); ++l)
    if (s.hot_per_layer[l] > 0) text.add({{"layer", l}}, s.hot_per_layer[l]);
  text.counter("expert_pairs_total", "Times that a row chose an expert", s.pairs);
  text.counter("hot_expert_pairs_total", "Of them, computed on trunk ranks because the expert was hot", s.hot_pairs);
  text.gauge("hot_expert_hit_ratio", "Of all choices, those that fell on a hot expert",
             ratio(static_cast<double>(s.hot_pairs), static_cast<double>(s.pairs)));
  text.counter("deferred_expert_pairs_total", "Choices whose output was added one MoE layer later", s.late_pairs);
  text.gauge("deferred_weight_ratio", "Their share of the routing weight", ratio(s.late_weight, s.weight));
  text.counter("hot_expert_exchanges_total", "Experts that became hot after the start", s.exchanges);
  text.counter("hot_expert_moved_bytes_total", "Weights brought to a trunk rank to stay", s.moved_bytes);
  text.counter("layerwise_streamed_bytes_total", "Weights brought to a trunk rank for one step", s.streamed_bytes);
  text.counter("prefill_steps_total", "Steps with prompt tokens by how they met the cold experts, and why");
  for (const auto& [labels, count] : s.prefill_steps) text.add({{"path", labels.first}, {"why", labels.second}}, count);
  text.gauge("prefill_estimate_seconds", "What the last prefill step would take on either path; 0: not asked");
  text.add({{"path", "hybrid"}}, s.hybrid_s);
  text.add({{"path", "layerwise"}}, s.layerwise_s);
  text.gauge("prefill_layerwise_from_tokens", "Prompt tokens of a step from which it is layerwise; 0: never",
             s.layerwise_from);
  if (!s.replicated) return text.take();
  text.counter("replicated_steps_total", "Steps by how machines that all hold all experts share them");
  text.add({{"layout", "slice"}}, s.sliced_steps);
  text.add({{"layout", "expert"}}, s.whole_steps);
  text.gauge("sliced_below_rows", "Rows of a step below which every machine computes a part of all experts",
             s.sliced_below);
  return text.take();
}

std::string to_json(const ExpertStats& s) {
  return fmt::format(R"({{"all":{},"hot":{},"hot_by_layer":[{}],"hit_ratio":{},"exchanges":{}}})", s.experts,
                     s.hot_experts, fmt::join(s.hot_per_layer, ","),
                     ratio(static_cast<double>(s.hot_pairs), static_cast<double>(s.pairs)), s.exchanges);
}

std::string to_json(const ExpertMap& map) {
  std::vector<std::string> layers, hot, use;
  for (size_t l = 0; l < map.moe.size(); ++l) {
    if (!map.moe[l]) continue;
    layers.push_back(std::to_string(l));
    hot.push_back(fmt::format("[{}]", fmt::join(map.hot[l], ",")));
    if (!map.counted) continue;
    const std::span<const uint64_t> counts = map.use.of_layer(l);
    const uint64_t most = std::max<uint64_t>(1, *std::max_element(counts.begin(), counts.end()));
    std::string digits;
    for (const uint64_t count : counts) digits += static_cast<char>('0' + (9 * count + most - 1) / most);
    use.push_back('"' + digits + '"');
  }
  return fmt::format(R"({{"experts":{},"layers":[{}],"hot":[{}]{}}})", map.use.experts, fmt::join(layers, ","),
                     fmt::join(hot, ","), map.counted ? fmt::format(R"(,"use":[{}])", fmt::join(use, ",")) : "");
}

}  // namespace kt
