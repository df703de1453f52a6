#pragma once

#include <string>

#include "kernels/device.h"
#include "runtime/weights/weights.h"

namespace kt {

// Computes the expert that file `in` describes and writes its output to `out`, so that another program can compare it.
// in: bf16 gate (inter, hidden), up (inter, hidden), down (hidden, inter), then any number of rows of `hidden`.
// out: float32, as many rows of `hidden`. `shape`: of the expert, without data, in BF16, AMXINT4 or AMXINT8; `inter` is
// its columns. Throws Error(kExitUsage) when a file cannot be used.
void write_layer_output(Device& device, const FfnWeights& shape, const std::string& in, const std::string& out);

}  // namespace kt
