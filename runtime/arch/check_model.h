#pragma once

#include "runtime/arch/config.h"

namespace kt {

// The one checker of shapes that every architecture's config passes through: parts divide their whole, widths are whole
// tiles of the kernels, sums of widths stay in range, and what is quantised has whole groups. Whatever it lets through
// can be loaded and computed on every world size that trunk_share() accepts. Throws Error(kExitModel) with the key of
// config.json, what it may be, and what it is.
void check_model(const ModelConfig& config);

}  // namespace kt
