#include <algorithm>

#include "runtime/base/error.h"
#include "runtime/placement/placement.h"

namespace kt {
namespace {

// The experts of one layer while copies of them are given out.
class Layer {
 public:
  Layer(const PlacementRequest& request, size_t layer, const std::vector<int32_t>& hot, int groups)
      : request_(request), layer_(layer), groups_(groups), copies_(static_cast<size_t>(groups_)) {
    for (int32_t e = 0; e < request.experts; ++e) {
      if (!std::binary_search(hot.begin(), hot.end(), e)) cold_.push_back(e);
      holders_.push_back({e % groups});
    }
  }

  int64_t room() const { return static_cast<int64_t>(cold_.size()) * (groups_ - 1); }

  // Of the expert with the most use for each of its holders; ties go to the lower one.
  void add() {
    const auto spare = [&](int32_t e) { return static_cast<int>(of(e).size()) < groups_; };
    int32_t expert = -1;
    for (int32_t e : cold_)
      if (spare(e) && (expert < 0 || share(e) > share(expert))) expert = e;
    const int group = least(expert);
    of(expert).push_back(group);
    std::vector<int32_t>& set = copies_[static_cast<size_t>(group)];
    set.insert(std::lower_bound(set.begin(), set.end(), expert), expert);
  }

  const std::vector<int32_t>& of_group(int group) const { return copies_[static_cast<size_t>(group)]; }

 private:
  std::vector<int>& of(int32_t e) { return holders_[static_cast<size_t>(e)]; }
  double use(int32_t e) const {
    return request_.counts ? static_cast<double>(request_.counts->of_layer(layer_)[static_cast<size_t>(e)]) : 1.0;
  }
  double share(int32_t e) { return use(e) / static_cast<double>(of(e).size()); }

  // The group that has the fewest copies, then the least use, of those that do not hold the expert yet.
  int least(int32_t expert) {
    std::vector<double> load(static_cast<size_t>(groups_));
    for (int32_t e : cold_)
      for (int g : of(e)) load[static_cast<size_t>(g)] += share(e);
    int least = -1;
    const auto key = [&](int g) { return std::pair(of_group(g).size(), load[static_cast<size_t>(g)]); };
    for (int g = 0; g < groups_; ++g) {
      const bool holds = std::find(of(expert).begin(), of(expert).end(), g) != of(expert).end();
      if (!holds && (least < 0 || key(g) < key(least))) least = g;
    }
    return least;
  }

  const PlacementRequest& request_;
  size_t layer_;
  int groups_;
  std::vector<int32_t> cold_;
  std::vector<std::vector<int>> holders_;     // of each expert
  std::vector<std::vector<int32_t>> copies_;  // of each group
};

}  // namespace

std::vector<HotSets> place_copies(const PlacementRequest& request, const HotSets& hot, int groups, int copies) {
  const int owners = std::min(groups, request.experts);  // further groups hold nothing
  std::vector<HotSets> result(static_cast<size_t>(groups), HotSets(request.moe.size()));
  for (size_t l = 0; l < request.moe.size(); ++l) {
    if (!request.moe[l]) continue;
    Layer layer(request, l, hot[l], owners);
    if (copies > layer.room())
      fail(kExitUsage,
           "ep-num-redundant-experts {}: layer {} has room for {} copies, of each cold expert one in each other group",
           copies, l, layer.room());
    for (int i = 0; i < copies; ++i) layer.add();
    for (int g = 0; g < owners; ++g) result[static_cast<size_t>(g)][l] = layer.of_group(g);
  }
  return result;
}

std::optional<LayerExpert> lost_expert(const PlacementRequest& request, const HotSets& hot, int groups,
                                       std::span<const HotSets> copies, std::span<const int> gone) {
  const auto remains = [&](size_t group) {
    return std::find(gone.begin(), gone.end(), static_cast<int>(group)) == gone.end();
  };
  for (size_t l = 0; l < request.moe.size(); ++l) {
    for (int32_t e = 0; request.moe[l] && e < request.experts; ++e) {
      bool held = remains(static_cast<size_t>(e % groups)) || std::binary_search(hot[l].begin(), hot[l].end(), e);
      for (size_t g = 0; g < copies.size() && !held; ++g)
        held = remains(g) && std::binary_search(copies[g][l].begin(), copies[g][l].end(), e);
      if (!held) return LayerExpert{static_cast<int>(l), e};
    }
  }
  return std::nullopt;
}

}  // namespace kt
