#pragma once

#include "runtime/comm/transport.h"

namespace kt {

// Returns once every rank has entered; for the transports' barrier(). Waiting is the transport's receive, so it sleeps.
void message_barrier(Transport& transport);

// What each of these ranks, this one among them, says, in their order; they call it at the same point. For set-up.
std::vector<std::string> gather_among(Transport& transport, std::span<const int> ranks, const std::string& mine);

}  // namespace kt
