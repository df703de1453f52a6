#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/device.h"

namespace kt {

struct Trunk;

// The expert ranks that share the columns of one set of experts, without those that are trunk ranks too. They all get
// the same message, so it is made once.
struct RemoteGroup {
  int group = 0;           // see ExpertShare
  std::vector<int> ranks;  // that hold columns
  std::vector<std::byte> outbox;
  std::vector<int32_t> rows;       // of the step, that the group computes for this layer
  bool sent_late = false;          // some of their experts are deferred
  std::vector<int32_t> late_rows;  // whose deferred sums of the MoE layer before are still to come
};

// Of the pairs those that a group computes, in `room`; the others' ids are -1. `routing` itself where there is one
// group.
Routing of_group(const Trunk& t, const Routing& routing, int group, std::vector<int32_t>& room);
// Sends each group those of this trunk rank's rows, [begin, end), that have experts there. Ids are -1 where a pair is
// not for them.
void send_rows(Trunk& t, int layer, const Routing& now, const Routing& late, int begin, int end);
// Adds to t.y the sums of those rows, and what was deferred in the MoE layer before.
void receive_sums(Trunk& t);

}  // namespace kt
