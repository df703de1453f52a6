#pragma once

#include <functional>
#include <string>

#include "runtime/model/experts/bank.h"
#include "runtime/plan/hardware.h"
#include "runtime/plan/memory_plan.h"

namespace kt {

struct LayoutChoice {
  std::string layout;  // "hybrid", "slice" or "expert"
  std::string why;     // for logs and tables
};

// What `expert-layout: auto` is: the layout with which a prompt of one chunk and an answer of 256 tokens spend the
// least time in the MoE layers; of equals the first of hybrid, slice, expert. A pass of R rows takes in each layer
//
//   computing   R rows with k of E experts each want U = E (1 - (1 - k / E)^R) of them. Of G groups of ranks that
//               deal the experts out, the fullest has about m + sqrt(2 m (1 - U / E) ln G) of those, m = U / G. Each
//               rank reads and multiplies its columns of them; the ranks of a machine share its rates.
//   messages    a row goes as BF16 to all ranks of a group that has one of its experts, which 1 - (1 - 1 / G)^k of them
//               do, and sums come back: over the network in the type that `wire` says, or in float64 written to memory
//               and read again.
//
// `machine`: rates, described or measured; without memory-bandwidth-gbs the choice is hybrid. `topology_of`: who does
// what with a layout.
LayoutChoice choose_layout(const ModelConfig& config, Format format, const Hardware& machine, int chunk, WireType wire,
                           const std::function<Topology(std::string_view layout)>& topology_of);

}  // namespace kt
