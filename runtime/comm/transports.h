#pragma once

#include <string>
#include <string_view>

#include "runtime/comm/transport.h"

namespace kt {

// Which transport the value of the option `transport` means. All ranks are started the same way, then meet, and may
// then go over to another transport for all that follows.

// As the ranks were started: by MPI where there is a launcher, which auto looks for; one rank alone for local.
std::unique_ptr<Transport> make_job_transport(std::string_view name, int* argc, char*** argv);

// Why the launcher ends all ranks when one is lost, whatever they do, and what to change, as far as the environment
// tells; "" where it lets them go on or nothing is known.
std::string why_losses_end_all();

// The other one, between the ranks of `job`, which ends after it; null where there is none. For auto: UCX, if the ranks
// are of several machines, this program has it and it starts. All ranks call it at the same point. Throws
// Error(kExitUsage), on all ranks, where they want different ones, this program has none of that name, or it does not
// start.
std::unique_ptr<Transport> make_step_transport(std::string_view name, Transport& job);

}  // namespace kt
