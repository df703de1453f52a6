#include "runtime/plan/losses.h"

#include <algorithm>

#include "runtime/base/error.h"

namespace kt {
namespace {

bool contains(std::span<const int> all, int one) { return std::find(all.begin(), all.end(), one) != all.end(); }

}  // namespace

std::vector<int> groups_of(const Topology& topology, std::span<const int> ranks) {
  std::vector<int> groups;
  for (size_t i = 0; i < topology.experts.size(); ++i)
    if (contains(ranks, topology.experts[i]) && !contains(groups, topology.group_of[i]))
      groups.push_back(topology.group_of[i]);
  return groups;
}

std::optional<LayerExpert> lost_with(const Holders& h, std::span<const int> ranks) {
  PlacementRequest request{.moe = {}, .experts = h.config.moe.experts};
  for (const LayerSpec& layer : h.config.layers) request.moe.push_back(layer.ffn == Ffn::moe);
  const int groups = *std::max_element(h.topology.group_of.begin(), h.topology.group_of.end()) + 1;
  return lost_expert(request, h.hot, groups, h.copies, groups_of(h.topology, ranks));
}

void check_losses(const RunConfig& run, const Holders& holders, std::span<const Team> teams) {
  if (run.on_lost_expert_rank != "go-on") return;
  if (teams.empty())
    fail(kExitUsage,
         "on-lost-expert-rank go-on: every rank with experts is a trunk rank too, without which nothing goes on\n"
         "  start expert ranks of their own (tensor-parallel-size + kt-threadpool-count a machine), or leave it out");
  for (const Team& team : teams)
    if (const auto expert = lost_with(holders, team.ranks))
      fail(kExitUsage,
           "on-lost-expert-rank go-on: without {} {} nobody would hold expert {} of layer {}\n"
           "  use bank replicate on several machines, or as many ep-num-redundant-experts that every expert is held "
           "twice, or leave it out",
           team.ranks.size() > 1 ? "ranks" : "rank", fmt::join(team.ranks, ", "), expert->expert, expert->layer);
}

}  // namespace kt
