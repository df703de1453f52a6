#include "runtime/plan/layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "runtime/plan/cost.h"
#include "runtime/plan/ranks.h"

namespace kt {
namespace {

constexpr int kAnswerTokens = 256;

// The longest of all ranks', those of a machine sharing its rates.
double longest(const std::vector<Work>& work, const Hardware& machine, const Topology& t) {
  const auto machine_of = [&](size_t i) { return t.node_of[static_cast<size_t>(t.experts[i])]; };
  double time = 0;
  for (size_t i = 0; i < work.size(); ++i) {
    double sharing = 0;
    for (size_t j = 0; j < work.size(); ++j) sharing += machine_of(j) == machine_of(i);
    time = std::max(time, seconds(work[i], 1.0 / sharing * cpu_rates(machine)));
  }
  return time;
}

Work expert_work(const ModelConfig& c, Format format) {
  return {static_cast<double>(expert_bytes(c, format, c.moe.inter)), 6.0 * c.hidden * c.moe.inter};
}

// Seconds of one MoE layer for so many rows, all experts being used alike.
double layer_seconds(const ModelConfig& c, Format format, const Hardware& machine, const Topology& t, double rows,
                     WireType wire) {
  const std::vector<ExpertShare> shares = expert_shares(c.moe.inter, t.group_of, t.replicated);
  const GroupLoads loads = loads_of_groups(uniform_chances(c.moe), shares.front().groups, rows);
  const BankWork work = bank_work(c, expert_work(c, format), shares, loads);
  return longest(work.most, machine, t) + seconds_of_messages(messages_of_layer(c, t, wire, loads, rows), machine);
}

// The same with replicated banks.
double replicated_seconds(const ModelConfig& c, Format format, const Hardware& machine, const Topology& t, double rows,
                          WireType wire, bool sliced) {
  const std::vector<ExpertShare> shares = expert_shares(c.moe.inter, t.group_of, t.replicated);
  const double groups = shares.front().groups, pairs = rows * c.moe.top_k;
  GroupLoads loads = loads_of_groups(uniform_chances(c.moe), shares.front().groups, rows);
  const double experts = sliced ? loads.wanted : std::ceil(loads.wanted / groups);  // of the group with most
  std::fill(loads.reached.begin(), loads.reached.end(),
            rows * (sliced ? 1.0 : 1 - std::pow(1 - 1 / groups, c.moe.top_k)));
  const Work expert = expert_work(c, format);
  std::vector<Work> work;
  for (const ExpertShare& s : shares) {
    const int columns = sliced ? s.pieces[static_cast<size_t>(s.group)].size() : s.columns();
    const double part = static_cast<double>(columns) / c.moe.inter;
    work.push_back({part * experts * expert.bytes, part * (sliced ? pairs : pairs / groups) * expert.flops});
  }
  return longest(work, machine, t) + seconds_of_messages(messages_of_layer(c, t, wire, loads, rows), machine);
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

SliceChoice choose_sliced(const RunConfig& run, const ModelConfig& config, Format format, const Hardware& machine,
                          const Topology& topology, int max_rows) {
  if (run.sliced_below) return {*run.sliced_below, "as sliced-below says"};
  SliceChoice choice;
  for (int rows = 1; rows <= max_rows; rows *= 2) {
    const auto time = [&](bool sliced) {
      return replicated_seconds(config, format, machine, topology, rows, dispatch_type(run), sliced);
    };
    const double sliced = time(true), whole = time(false);
    choice.why += fmt::format("{}{} row{}: {:.0f} us a layer sliced, {:.0f} whole", choice.why.empty() ? "" : "; ",
                              rows, rows == 1 ? "" : "s", sliced * 1e6, whole * 1e6);
    if (sliced >= whole) break;
    choice.below = 2 * rows;
  }
  return choice;
}

std::string sliced_line(const SliceChoice& choice) {
  const std::string steps = choice.below ? fmt::format("of fewer than {} rows are sliced", choice.below)
                                         : std::string("are of whole experts");
  return fmt::format("bank replicate: steps {} ({})", steps, choice.why);
}

}  // namespace kt
