#pragma once

#include <functional>
#include <string>
#include <vector>

#include "runtime/plan/hardware.h"
#include "runtime/plan/ranks.h"

namespace kt {

// A memory that is too small.
struct Shortage {
  std::string where;  // "machine 0", "NUMA node 1 of machine 0", "the GPU of rank 1"
  size_t needed = 0, available = 0;
};
std::vector<Shortage> find_shortages(const RunConfig& run, const std::vector<RankPlan>& ranks,
                                     const Deployment& deployment, const Hardware& hardware);

// An option and the value closest to the one asked for with which everything fits, nothing else changed.
struct Remedy {
  std::string option, value, instead_of;
};
// `fits`: whether the ranks fit with these options; monotone in each option. Options that alone are not enough are left
// out; if none is, the least drastic set of them together; empty: lowering options does not help.
struct Remedies {
  std::vector<Remedy> options;
  bool together = false;  // all of them, not one of them
};
Remedies find_remedies(const RunConfig& run, const ModelConfig& model,
                       const std::function<bool(const RunConfig&)>& fits);
// "lower chunked-prefill-size to 31104 (from 32768)\nor ..."
std::string describe(const Remedies& remedies);

}  // namespace kt
