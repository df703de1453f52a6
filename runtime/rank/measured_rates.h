#pragma once

#include "kernels/ops.h"
#include "runtime/comm/transport.h"
#include "runtime/plan/hardware.h"

namespace kt {

// What the machines of this job do, as a hardware file would say it: reading memory and multiplying BF16 with all ranks
// at once, of the slowest machine; and between rank 0 and another machine, if there is one, the network. All ranks call
// it at the same point and get the same numbers; it takes about 2 s, and 1 GiB of each machine meanwhile.
Hardware measure_rates(Transport& transport, const Ops& ops);

}  // namespace kt
