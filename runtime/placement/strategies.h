#pragma once

#include "runtime/placement/placement.h"

namespace kt {

// The strategies of placement.cpp's table. The request is valid: its budget exists, its counts have its shape.
HotSets place_uniform(const PlacementRequest& request);
HotSets place_by_frequency(const PlacementRequest& request);
HotSets place_in_front(const PlacementRequest& request);
HotSets place_at_random(const PlacementRequest& request);

// One expert of one MoE layer.
struct ExpertAt {
  size_t layer;
  int32_t expert;
};

// All there are, layer by layer.
std::vector<ExpertAt> all_experts(const PlacementRequest& request);
// The sets that hold the first `budget` of `order`.
HotSets take_first(const PlacementRequest& request, std::span<const ExpertAt> order);

}  // namespace kt
