#pragma once

#include <string_view>
#include <vector>

#include "runtime/base/descriptor.h"
#include "runtime/comm/transport.h"

namespace kt {

// Connects every rank to rank 0 by TCP: by rank, the socket to that rank, if there is one. All ranks call it at the
// same point. Rank 0 tells its addresses and two secrets over the transport; who does not show the first one is turned
// away, and a rank that is not answered with the second goes on looking. Throws Error(kExitUsage), on rank 0 too, when
// ranks do not find each other in time. Rank 0 listens, until all have come, on the loopback where all are on its
// machine, else on the first of `interfaces` ("eth1,ib0"), or on all networks if none is named.
std::vector<Descriptor> meet_at_rank_0(Transport& transport, std::string_view interfaces = "");

}  // namespace kt
