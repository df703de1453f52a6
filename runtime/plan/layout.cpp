#include "runtime/plan/layout.h"

#include <fmt/format.h>

#include <algorithm>

#include "runtime/plan/cost.h"

namespace kt {
namespace {

constexpr int kAnswerTokens = 256;

// Seconds of one MoE layer for so many rows, all experts being used alike and the ranks of a machine sharing its rates.
double layer_seconds(const ModelConfig& c, Format format, const Hardware& machine, const Topology& t, double rows,
                     WireType wire) {
  const std::vector<ExpertShare> shares = expert_shares(c.moe.inter, t.group_of);
  const GroupLoads loads = loads_of_groups(uniform_chances(c.moe), shares.front().groups, rows);
  const Work expert = {static_cast<double>(expert_bytes(c, format, c.moe.inter)), 6.0 * c.hidden * c.moe.inter};
  const BankWork work = bank_work(c, expert, shares, loads);

  const auto machine_of = [&](int rank) { return t.node_of[static_cast<size_t>(rank)]; };
  double computing = 0;
  for (size_t i = 0; i < shares.size(); ++i) {
    const int node = machine_of(t.experts[i]);
    const auto sharing =
        std::count_if(t.experts.begin(), t.experts.end(), [&](int r) { return machine_of(r) == node; });
    computing = std::max(computing, seconds(work.most[i], 1.0 / static_cast<double>(sharing) * cpu_rates(machine)));
  }
  return computing + seconds_of_messages(messages_of_layer(c, t, wire, loads, rows), machine);
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
    const double time = prompt + kAnswerTokens * token;
    if (best.why.empty() || time < least) best.layout = layout, least = time;
    best.why += fmt::format("{}{}: {:.2f} s a chunk, {:.2f} ms a token", best.why.empty() ? "" : "; ", layout, prompt,
                            token * 1e3);
  }
  return best;
}

}  // namespace kt
