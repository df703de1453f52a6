#pragma once

#include <string>

#include "runtime/policy/expert_policy.h"

namespace kt {

// Prometheus text format, version 0.0.4.
std::string to_prometheus(const ExpertStats& stats);

// The experts of /status: a JSON object.
std::string to_json(const ExpertStats& stats);

}  // namespace kt
