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
//   computing   what the rank with most to do reads and multiplies of its columns of the experts that are wanted; the
//               ranks of a machine share its rates
//   messages    rows to the ranks of all groups that have one of their experts, and sums back: between machines over
//   the
//               network, within one written to memory and read again
//
// as cost.h counts them, all experts being used alike.
// `machine`: rates, described or measured; without memory-bandwidth-gbs the choice is hybrid. `topology_of`: who does
// what with a layout.
LayoutChoice choose_layout(const ModelConfig& config, Format format, const Hardware& machine, int chunk, WireType wire,
                           const std::function<Topology(std::string_view layout)>& topology_of);

}  // namespace kt
