#include <algorithm>
#include <numeric>

#include "runtime/placement/strategies.h"

namespace kt {

HotSets place_uniform(const PlacementRequest& request) {
  HotSets hot(request.moe.size());
  const int64_t layers = std::count(request.moe.begin(), request.moe.end(), true);
  for (int64_t layer = 0, at = 0; at < layers; ++layer) {
    if (!request.moe[layer]) continue;
    hot[layer].resize(request.budget / layers + (at < request.budget % layers));
    std::iota(hot[layer].begin(), hot[layer].end(), 0);
    ++at;
  }
  return hot;
}

}  // namespace kt
