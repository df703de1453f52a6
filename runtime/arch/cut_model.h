#pragma once

#include "runtime/arch/config.h"

namespace kt {

// Leaves of a model only so many layers, the first and the last ones, and so many routed experts of each; 0: all. For
// measurements without a checkpoint. Throws Error(kExitUsage) for what the model does not allow.
void cut_model(ModelConfig& model, int layers, int experts);

}  // namespace kt
