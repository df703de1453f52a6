#pragma once

#include "runtime/arch/config.h"
#include "runtime/arch/read_config.h"

namespace kt {

// What the configs of all families share. Each function reads its keys and refuses what it cannot honour.

// A setting that is absent or `only`.
void require_text(const ConfigReader& json, const char* key, const char* only);

// Sizes, norms, end tokens, quantisation; refuses activations other than silu and biases of attention's projections.
// `layers` is resized, its entries are left as they are by default.
void read_skeleton(const ConfigReader& json, ModelConfig& config);

}  // namespace kt
