#pragma once

#include <string>

#include "runtime/comm/dispatch.h"
#include "runtime/comm/group.h"

namespace kt::testing {

// What the doors promise, whatever transport carries them: `run_*` plays one rank's part of some steps on data that all
// ranks make from the same seed, and checks with gtest what comes. All ranks call it together. Returns the first fault;
// what came before it is right.

struct DispatchCase {
  int trunk_ranks = 1;
  std::string layout = "hybrid";  // as of Topology
  WireType wire = WireType::float64;
  bool trunks_hold = false;  // the trunk ranks are expert ranks too, for themselves
};
// `limit` of its waits, if there is one.
using Limit = std::chrono::milliseconds;
Fault run_dispatch(Transport& transport, const DispatchCase& c, Limit limit = Limit(0));

// The last `members` ranks, backwards, add; rank 0 gathers.
Fault run_group(Transport& transport, int members, Limit limit = Limit(0));

// All cases that fit the world: nothing may go wrong.
void check_doors(Transport& transport);

}  // namespace kt::testing
