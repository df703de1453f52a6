#pragma once

#include "runtime/comm/transport.h"

namespace kt {

// Returns once every rank has entered; for the transports' barrier(). Waiting is the transport's receive, so it sleeps.
void message_barrier(Transport& transport);

}  // namespace kt
