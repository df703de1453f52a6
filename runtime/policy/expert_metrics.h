#pragma once

#include <string>

#include "runtime/policy/expert_policy.h"

namespace kt {

// Prometheus text format, version 0.0.4.
std::string to_prometheus(const ExpertStats& stats);

// The experts of /status: a JSON object.
std::string to_json(const ExpertStats& stats);

// /status/experts: a JSON object of the MoE layers alone. `use` has a string for each, of a digit for each expert:
// ninths of how often its layer's most chosen expert is chosen, rounded up; it is absent where nothing is counted.
std::string to_json(const ExpertMap& map);

}  // namespace kt
