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

// What mem-fraction-static leaves for the KV cache, in blocks, as SGLang means it: that share of the memory that is
// free before anything is loaded (`available`, bytes by machine; of GPUs for each trunk rank) is for weights, recurrent
// states and the cache together, the rest for a step's buffers. Where it is least counts for all; max-total-tokens caps
// it. 0: nothing is left.
int kv_blocks_of_fraction(const RunConfig& run, const Deployment& deployment, const std::vector<size_t>& available);

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
