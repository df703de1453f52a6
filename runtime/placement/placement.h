#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

namespace kt {

// How often the router chose each expert. Layers without experts hold zeros.
struct ExpertCounts {
  int layers = 0, experts = 0;
  std::vector<uint64_t> counts;  // [layers, experts]

  std::span<const uint64_t> of_layer(size_t layer) const {
    return std::span(counts).subspan(layer * static_cast<size_t>(experts), static_cast<size_t>(experts));
  }
};

// What is to be placed: `budget` of the (layer, expert) pairs of the MoE layers become hot, held by the trunk.
struct PlacementRequest {
  std::vector<bool> moe;                 // one for each layer of the model
  int experts = 0;                       // of each MoE layer
  int64_t budget = 0;                    // 0 to MoE layers * experts
  const ExpertCounts* counts = nullptr;  // for strategies that look at use
};

// The hot experts of each layer, ascending; dense layers have none.
using HotSets = std::vector<std::vector<int32_t>>;

// Chooses exactly `budget` experts. The same request always gives the same sets: ties go to the lower layer, then to
// the lower expert.
//   uniform        as many in each layer, one more in the first layers if that does not divide; the lowest experts
//   frequency      the most used of the whole model
//   front-loading  all of the first MoE layer, then of the next
//   random         any, each equally likely, from a fixed seed
// Throws Error(kExitUsage) for an unknown strategy, a budget that does not exist, and for counts that are of another
// shape or (frequency) absent or all zero.
HotSets place(std::string_view strategy, const PlacementRequest& request);

std::span<const std::string_view> placement_strategies();  // their names, the default first

// Hot experts of the whole model: `per_layer` (kt-num-gpu-experts) in each of the MoE layers, or `ratio`
// (kt-gpu-experts-ratio, 0 to 1) of all experts, rounded down, which goes before it; 0 without either.
// Throws Error(kExitUsage) when a number is more than there is.
int64_t hot_budget(std::optional<int> per_layer, std::optional<double> ratio, int moe_layers, int experts);

// Where groups of expert ranks hold different experts (e in group e % groups): which other experts each group holds
// too, [group][layer], ascending. Each MoE layer gets `copies` of them, of its cold experts; one after the other the
// next is of the expert with the most use for each of its holders, in the group with the fewest copies, then the least
// use. Without counts all experts are used alike. Throws Error(kExitUsage) when a layer has no room for as many.
std::vector<HotSets> place_copies(const PlacementRequest& request, const HotSets& hot, int groups, int copies);

// An expert of these that is neither hot nor held by any group but those that are gone; none: all are held.
struct LayerExpert {
  int layer = 0, expert = 0;
};
std::optional<LayerExpert> lost_expert(const PlacementRequest& request, const HotSets& hot, int groups,
                                       std::span<const HotSets> copies, std::span<const int> gone);

// The share of choices that fell on a hot expert, 0 to 1; 0 when nothing was counted.
double hit_rate(const HotSets& hot, const ExpertCounts& counts);

}  // namespace kt
