#pragma once

#include <filesystem>

#include "runtime/placement/placement.h"

namespace kt {

// Use that gets the brightest colour, as a multiple of what an expert has if all of its layer have the same.
inline constexpr double kHottest = 4.0;

// A PNG with a row of cells for each layer and a cell for each expert: on the left by number, on the right from the
// most to the least used of the layer. Black: never chosen; bright yellow: kHottest or more; grey: a layer without
// choices. Throws Error(kExitUsage) when the file cannot be written.
void write_heat_map(const std::filesystem::path& file, const ExpertCounts& counts);

}  // namespace kt
