#pragma once

#include <vector>

#include "runtime/arch/config.h"

namespace kt {

// Angle per position of each of the dims / 2 pairs.
std::vector<double> rope_frequencies(const RopeSpec& rope);

}  // namespace kt
