#pragma once

#include <span>
#include <vector>

#include "runtime/arch/config.h"
#include "runtime/placement/placement.h"

namespace kt {

// How routed experts are used: the chance that a row chooses each expert of a layer. They add up to top_k.
using Chances = std::vector<double>;

// All alike.
Chances uniform_chances(const MoeSpec& moe);
// As Zipf's law has it: the n-th most used one in proportion to n^-skew, in an order that a seed chooses; 0 is uniform.
Chances skewed_chances(const MoeSpec& moe, double skew);
// As recorded, by layer; layers without experts have none. Throws Error(kExitUsage) for counts of another model, and
// where a layer was never used.
std::vector<Chances> recorded_chances(const ExpertCounts& counts, const ModelConfig& config);

// What rows want of groups of experts that are dealt out, expert e being in group e % groups. Of R independent rows one
// of chance q is wanted by any with 1 - (1 - q)^R.
struct GroupLoads {
  double wanted = 0;                   // experts that any row wants, of all groups
  std::vector<double> experts, pairs;  // of each group on average: those wanted, and how often rows choose them
  std::vector<double> reached;         // rows that have an expert of the group
  // What the fullest group has beyond its average, as sums of independent choices do: the largest of G normal values is
  // so many standard deviations above the mean.
  double more_experts = 0, more_pairs = 0;
};
GroupLoads loads_of_groups(std::span<const double> chances, int groups, double rows);

// Of what the ranks' groups read, the fullest over the mean; 1: all alike.
double imbalance(const GroupLoads& loads);

// The mean of the largest of n values, normal with mean 0 and deviation 1.
double largest_normal(int n);

}  // namespace kt
