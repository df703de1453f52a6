#pragma once

#include <string>

#include "runtime/client/endpoint.h"

namespace kt {

// The first model that the server names in /v1/models. Throws Error when there is no server, or none that names one.
std::string first_model(const Endpoint& endpoint);

}  // namespace kt
