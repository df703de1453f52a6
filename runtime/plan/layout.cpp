#include "runtime/plan/layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace kt {
namespace {

constexpr int kAnswerTokens = 256;
constexpr double kGiga = 1e9, kTera = 1e12;

// Seconds of one MoE layer for so many rows.
double layer_seconds(const ModelConfig& c, Format format, const Hardware& machine, const Topology& t, double rows,
                     WireType wire) {
  const std::vector<ExpertShare> shares = expert_shares(c.moe.inter, t.group_of);
  const double experts = c.moe.experts, top_k = c.moe.top_k, groups = shares.front().groups;
  const double wanted = experts * (1 - std::pow(1 - top_k / experts, rows)), mean = wanted / groups;
  const double fullest = std::min(
      {wanted, std::ceil(experts / groups), mean + std::sqrt(2 * mean * (1 - wanted / experts) * std::log(groups))});
  const double bytes = fullest * static_cast<double>(expert_bytes(c, format, c.moe.inter));
  const double flops = fullest / wanted * rows * top_k * 6.0 * c.hidden * c.moe.inter;

  const auto machine_of = [&](int rank) { return t.node_of[static_cast<size_t>(rank)]; };
  double computing = 0, near = 0, far = 0;
  for (size_t i = 0; i < shares.size(); ++i) {
    const int node = machine_of(t.experts[i]);
    const auto sharing =
        std::count_if(t.experts.begin(), t.experts.end(), [&](int r) { return machine_of(r) == node; });
    const double part = static_cast<double>(shares[i].columns.size()) / c.moe.inter * static_cast<double>(sharing);
    computing = std::max(computing, part * bytes / (machine.memory_bandwidth_gbs * kGiga));
    if (machine.cpu_tflops > 0) computing = std::max(computing, part * flops / (machine.cpu_tflops * kTera));
    if (part > 0 && t.experts[i] != t.trunk.front()) ++(node == machine_of(t.trunk.front()) ? near : far);
  }
  const double values = rows * (1 - std::pow(1 - 1 / groups, top_k)) * c.hidden;
  const auto row_bytes = [&](size_t sum) { return values * static_cast<double>(sizeof(bf16) + sum); };
  double messages = near * row_bytes(sizeof(double)) * 2 / (machine.memory_bandwidth_gbs * kGiga);
  if (far > 0 && machine.network_gbs > 0)
    messages += far * row_bytes(wire_bytes(wire)) / (machine.network_gbs * kGiga) + 2e-6 * machine.network_latency_us;
  return computing + messages;
}

}  // namespace

LayoutChoice choose_layout(const ModelConfig& config, Format format, const Hardware& machine, int chunk, WireType wire,
                           const std::function<Topology(std::string_view layout)>& topology_of) {
  LayoutChoice best{.layout = "hybrid", .why = {}};
  if (machine.memory_bandwidth_gbs <= 0 || !config.moe.experts) {
    best.why = config.moe.experts ? "memory-bandwidth-gbs is not known" : "the model has no routed experts";
    return best;
  }
  double least = 0;
  for (const char* layout : {"hybrid", "slice", "expert"}) {
    const Topology topology = topology_of(layout);
    const double layers = moe_layer_count(config);
    const double prompt = layers * layer_seconds(config, format, machine, topology, chunk, wire);
    const double token = layers * layer_seconds(config, format, machine, topology, 1, wire);
    const double seconds = prompt + kAnswerTokens * token;
    if (best.why.empty() || seconds < least) best.layout = layout, least = seconds;
    best.why += fmt::format("{}{}: {:.2f} s a chunk, {:.2f} ms a token", best.why.empty() ? "" : "; ", layout, prompt,
                            token * 1e3);
  }
  return best;
}

}  // namespace kt
