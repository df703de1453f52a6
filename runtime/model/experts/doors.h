#pragma once

#include "runtime/comm/dispatch.h"
#include "runtime/comm/group.h"
#include "runtime/model/step_memory.h"

namespace kt {

// What the ranks of a job share to take steps together: mailboxes between trunk and expert ranks, and the trunk ranks'
// sums and logits. In a world of one there is nothing.
struct Doors {
  std::vector<Team> teams;
  DispatchShape shape;
  Group::Members trunk;
  bool shares_sums = false;               // TrunkLimits
  size_t sum_bytes = 0, value_bytes = 0;  // of a trunk rank: the largest sum that the host adds; all of its SumMemory

  NodeMemory mailbox, values;  // after open_doors
};
Doors plan_doors(const Topology& topology, const ModelConfig& config, const TrunkLimits& limits);
// For orders without rows, on a lane of its own.
Doors plan_side_doors(const Topology& topology, const ModelConfig& config);
// All ranks call it at the same point.
void open_doors(Doors& doors, Transport& transport, const Topology& topology);

// What they take of this rank's memory, buffers of the doors' own included.
size_t door_bytes(const Doors& doors, const Topology& topology);

// Whether trunk ranks' sums and logits lie where other ranks see them.
bool shares_sums(const Topology& topology);

}  // namespace kt
