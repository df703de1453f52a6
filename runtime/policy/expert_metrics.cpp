#include "runtime/policy/expert_metrics.h"

#include <fmt/format.h>

#include <iterator>
#include <string_view>

namespace kt {
namespace {

void header(std::string& out, std::string_view name, std::string_view type, std::string_view help) {
  fmt::format_to(std::back_inserter(out), "# HELP ktmpi_{0} {2}\n# TYPE ktmpi_{0} {1}\n", name, type, help);
}

template <class T>
void single(std::string& out, std::string_view name, std::string_view type, std::string_view help, T value) {
  header(out, name, type, help);
  fmt::format_to(std::back_inserter(out), "ktmpi_{} {}\n", name, value);
}

}  // namespace

std::string to_prometheus(const ExpertStats& s) {
  std::string out;
  const auto ratio = [](double part, double whole) { return whole > 0 ? part / whole : 0.0; };
  single(out, "experts", "gauge", "Routed experts of all layers", s.experts);
  single(out, "hot_experts", "gauge", "Of them, held by the trunk ranks", s.hot_experts);
  header(out, "hot_experts_of_layer", "gauge", "Hot experts of each layer that has any");
  for (size_t l = 0; l < s.hot_per_layer.size(); ++l)
    if (s.hot_per_layer[l] > 0)
      fmt::format_to(std::back_inserter(out), "ktmpi_hot_experts_of_layer{{layer=\"{}\"}} {}\n", l, s.hot_per_layer[l]);
  single(out, "expert_pairs_total", "counter", "Times that a row chose an expert", s.pairs);
  single(out, "hot_expert_pairs_total", "counter", "Of them, computed on trunk ranks because the expert was hot",
         s.hot_pairs);
  single(out, "hot_expert_hit_ratio", "gauge", "Of all choices, those that fell on a hot expert",
         ratio(static_cast<double>(s.hot_pairs), static_cast<double>(s.pairs)));
  single(out, "deferred_expert_pairs_total", "counter", "Choices whose output was added one MoE layer later",
         s.late_pairs);
  single(out, "deferred_weight_ratio", "gauge", "Their share of the routing weight", ratio(s.late_weight, s.weight));
  single(out, "hot_expert_exchanges_total", "counter", "Experts that became hot after the start", s.exchanges);
  single(out, "hot_expert_moved_bytes_total", "counter", "Weights brought to a trunk rank to stay", s.moved_bytes);
  single(out, "layerwise_streamed_bytes_total", "counter", "Weights brought to a trunk rank for one step",
         s.streamed_bytes);
  header(out, "prefill_steps_total", "counter", "Steps with prompt tokens by how they met the cold experts, and why");
  for (const auto& [labels, count] : s.prefill_steps)
    fmt::format_to(std::back_inserter(out), "ktmpi_prefill_steps_total{{path=\"{}\",why=\"{}\"}} {}\n", labels.first,
                   labels.second, count);
  header(out, "prefill_estimate_seconds", "gauge",
         "What the last prefill step would take on either path; 0: not asked");
  fmt::format_to(std::back_inserter(out), "ktmpi_prefill_estimate_seconds{{path=\"hybrid\"}} {}\n", s.hybrid_s);
  fmt::format_to(std::back_inserter(out), "ktmpi_prefill_estimate_seconds{{path=\"layerwise\"}} {}\n", s.layerwise_s);
  single(out, "prefill_layerwise_from_tokens", "gauge", "Prompt tokens of a step from which it is layerwise; 0: never",
         s.layerwise_from);
  return out;
}

}  // namespace kt
