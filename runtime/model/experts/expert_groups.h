#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/weights/shares.h"

namespace kt {

// Which group of expert ranks computes which (row, expert) pair of a step. Expert e is at home in group e % groups;
// copies of it may be in others. All trunk ranks decide alike, each over all rows of the step.
class ExpertGroups {
 public:
  // An expert computes so many rows in about the time in which its weights are read. Of one with several holders so
  // many rows go together, to the holder with the fewest such pieces of all experts.
  static constexpr int kPieceRows = 32;

  // `copies` by group: what it holds besides its own; none: nobody holds copies.
  ExpertGroups(int groups, int experts, std::span<const ExpertSets> copies = {});
  ExpertGroups() : ExpertGroups(1, 0) {}

  int count() const { return groups_; }
  // It computes nothing any more; others hold each expert that is asked for.
  void leave_out(int group);
  // pairs: the experts that the rows chose in this layer, -1: nobody's. Afterwards the groups that compute them.
  void assign(int layer, std::span<int32_t> pairs);

 private:
  std::vector<int>& holders(int layer, int32_t expert) {
    return holders_[static_cast<size_t>(layer * experts_ + expert)];
  }

  int home(int32_t expert) const { return expert % groups_; }

  int groups_, experts_;
  std::vector<bool> gone_;                   // by group
  std::vector<std::vector<int>> holders_;    // [layer * experts + expert]: where it is besides home, ascending
  std::vector<int> rows_, chosen_, pieces_;  // of a call: by expert, by expert, by group
};

}  // namespace kt
