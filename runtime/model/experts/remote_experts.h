#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/device.h"
#include "runtime/comm/mailbox.h"

namespace kt {

struct MoeRoom;
struct Trunk;

// A team of expert ranks, as a trunk rank sees it between sending rows and adding their sums.
struct RemoteTeam {
  Order order;                     // of this layer
  std::vector<int32_t> rows;       // of the step, that this rank sent for this layer
  std::vector<int32_t> late_rows;  // whose deferred sums of the MoE layer before are still to come
};

// Of the pairs those that a group computes, written to `ids`; the others' are -1. `routing` itself where there is one
// group.
Routing of_group(const MoeRoom& room, const Routing& routing, int group, int32_t* ids);
// Sends each team those rows that have experts there: of its rows this trunk rank's share. Ids are -1 where a pair is
// not for them.
void send_rows(Trunk& t, int layer, const Routing& now, const Routing& late);
// Adds to t.step.y the sums of those rows, and what was deferred in the MoE layer before.
void receive_sums(Trunk& t);

}  // namespace kt
