#pragma once

#include <functional>
#include <string>

#include "runtime/config/run_config.h"
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
//               the network, within one written to memory and read again
//
// as cost.h counts them, all experts being used alike.
// `machine`: rates, described or measured; without memory-bandwidth-gbs the choice is hybrid. `topology_of`: who does
// what with a layout.
LayoutChoice choose_layout(const ModelConfig& config, Format format, const Hardware& machine, int chunk, WireType wire,
                           const std::function<Topology(std::string_view layout)>& topology_of);

// Of replicated banks: steps of fewer than `below` rows take less time when every group computes its piece of all
// experts than when groups compute whole experts, by the same count. A group's share of whole experts is a whole
// number, and of few rows the experts are few; pieces are alike, but every row goes to all machines.
struct SliceChoice {
  int below = 0;
  std::string why;  // for the log
};
// `sliced-below` says it instead.
SliceChoice choose_sliced(const RunConfig& run, const ModelConfig& config, Format format, const Hardware& machine,
                          const Topology& topology, int max_rows);
std::string sliced_line(const SliceChoice& choice);

}  // namespace kt
