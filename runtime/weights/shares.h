#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/arch/config.h"

namespace kt {

// A half-open range of heads, slices or rows.
struct Range {
  int begin = 0, end = 0;
  int size() const { return end - begin; }
};

// Part `index` of `count` nearly equal parts of n; parts may be empty.
inline Range part_of(int n, int index, int count) {
  return {static_cast<int>(static_cast<long long>(n) * index / count),
          static_cast<int>(static_cast<long long>(n) * (index + 1) / count)};
}

// A dimension that is summed over ranks is cut into slices that do not depend on how many ranks there are; each slice
// is one chain (kernels/weight.h), and slices are added on the grid of kernels/numeric.h.
inline int slice_width(int inter) { return inter >= 512 ? 128 : 32; }
inline int slice_count(int inter) { return (inter + slice_width(inter) - 1) / slice_width(inter); }
inline Range slice_columns(int inter, Range slices) {
  const int width = slice_width(inter);
  return {slices.begin * width < inter ? slices.begin * width : inter,
          slices.end * width < inter ? slices.end * width : inter};
}
// The columns of an intermediate dimension that part `index` of `count` holds.
inline Range inter_part(int inter, int index, int count) {
  return slice_columns(inter, part_of(slice_count(inter), index, count));
}

// Experts by layer, ascending.
using ExpertSets = std::vector<std::vector<int32_t>>;

// What an expert rank holds: some columns of every `groups`-th routed expert, from `group` on, and of copies of others.
// Groups of ranks hold different experts, the ranks of a group different columns.
//
// Where every group holds copies of all others' experts (bank: replicate), the columns of an expert are dealt to as
// many pieces as there are groups, and of each piece a rank holds some columns, perhaps none. A step is computed by
// groups of whole experts, each the pieces of its own; or every group computes its piece of all experts.
struct ExpertShare {
  std::vector<Range> pieces;  // columns; one piece but for replicated banks
  int group, groups;
  ExpertSets copies;  // of experts that other groups own; empty: none
  ExpertShare(Range columns = {}, int group = 0, int groups = 1) : pieces{columns}, group(group), groups(groups) {}

  int columns() const;  // of all pieces
  int widest() const;   // piece
  int parts() const { return static_cast<int>(pieces.size()); }
  bool owns(int expert) const { return expert >= 0 && expert % groups == group; }
  int count(int experts) const { return columns() ? (experts - group + groups - 1) / groups : 0; }  // that it owns
  // Own ones and copies, ascending.
  std::vector<int32_t> held(int layer, int experts) const;
};
// Of all expert ranks; `group_of` each of them, groups being numbered from 0.
std::vector<ExpertShare> expert_shares(int inter, std::span<const int> group_of, bool replicated = false);

// What trunk rank `index` of `count` computes. Throws Error(kExitUsage) when the heads do not divide.
struct TrunkShare {
  int index = 0, count = 1;
  Range heads, kv_heads;         // attention; key-value heads are replicated when there are more ranks than heads,
                                 // as the one latent of latent attention always is
  Range key_heads, value_heads;  // delta net
  Range dense, shared;           // intermediate columns
  Range vocab;                   // rows of the head, cut at panels
};
TrunkShare trunk_share(const ModelConfig& config, int index, int count);

}  // namespace kt
