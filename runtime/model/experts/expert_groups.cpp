#include "runtime/model/experts/expert_groups.h"

#include "kernels/weight.h"

namespace kt {

ExpertGroups::ExpertGroups(int groups, int experts, std::span<const ExpertSets> copies)
    : groups_(groups), experts_(experts), gone_(groups), rows_(experts), chosen_(experts), pieces_(groups) {
  if (copies.empty()) return;
  holders_.resize(copies[0].size() * static_cast<size_t>(experts));
  for (int g = 0; g < static_cast<int>(copies.size()); ++g)
    for (int layer = 0; layer < static_cast<int>(copies[g].size()); ++layer)
      for (int32_t e : copies[g][layer]) holders(layer, e).push_back(g);
}

void ExpertGroups::leave_out(int group) {
  gone_[group] = true;
  for (std::vector<int>& holders : holders_) std::erase(holders, group);
}

void ExpertGroups::assign(int layer, std::span<int32_t> pairs) {
  std::fill(rows_.begin(), rows_.end(), 0);
  std::fill(pieces_.begin(), pieces_.end(), 0);
  const auto copied = [&](int32_t e) { return !holders_.empty() && !holders(layer, e).empty(); };
  if (!holders_.empty()) {
    for (int32_t e : pairs)
      if (e >= 0) ++rows_[e];
    for (int32_t e = 0; e < experts_; ++e)
      if (!copied(e)) pieces_[home(e)] += static_cast<int>(ceil_div(rows_[e], kPieceRows));
    std::fill(rows_.begin(), rows_.end(), 0);
  }
  for (int32_t& pair : pairs) {
    if (pair < 0) continue;
    const int32_t e = pair;
    if (!copied(e)) {
      pair = home(e);
      continue;
    }
    if (rows_[e]++ % kPieceRows == 0) {
      int least = gone_[home(e)] ? holders(layer, e).front() : home(e);
      for (int g : holders(layer, e))
        if (pieces_[g] < pieces_[least]) least = g;
      ++pieces_[least];
      chosen_[e] = least;
    }
    pair = chosen_[e];
  }
}

}  // namespace kt
