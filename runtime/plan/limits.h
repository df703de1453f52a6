#pragma once

#include <string>
#include <vector>

#include "runtime/plan/hardware.h"
#include "runtime/plan/ranks.h"

namespace kt {

// The most tokens/s that the described hardware allows: bytes that must be read and multiplications that must be made
// (cost.h), at the rates of the hardware file. Latencies inside a machine, imbalance and kernels below peak are left
// out, so a measured rate is always lower. One pass over R rows takes
//
//   hybrid      trunk + max(shared, experts + network)
//   layerwise   max(link, trunk + shared + experts computed by the trunk)
//
//   trunk       each trunk rank reads its weights once, the keys and values that the rows see, and reads and writes the
//               recurrent states; or multiplies: 2 weights R, and attention. On GPUs, with T of them, an all-reduce of
//               R hidden values of 2 bytes per sub-layer moves 2 (T - 1) / T of them over the link.
//   shared      shared and hot experts, which the trunk computes while the expert ranks work
//   experts     of E experts a pass with k a row reads E (1 - (1 - k / E)^R) in each MoE layer; hot ones are spared.
//               All NUMA nodes read at once. On one machine a trunk on the CPU shares the memory with them.
//   link        the same experts on their way to the GPUs, each its columns
//   network     rows and sums between machines, as the layout of the experts has them
//
// Each part takes the longer of reading and multiplying.
struct RateLimit {
  int tokens = 0;  // of the prompt; or of the context that is read
  int batch = 1;   // sequences
  double tokens_per_s = 0;
  std::string bound;  // the part that takes longest
};
struct RateLimits {
  std::vector<RateLimit> prefill, decode;
  std::string missing;  // keys of the hardware file without which there are no rates
};
RateLimits rate_limits(const RunConfig& run, const Deployment& deployment, const Hardware& hardware);

}  // namespace kt
