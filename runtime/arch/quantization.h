#pragma once

#include "runtime/arch/config.h"
#include "runtime/arch/read_config.h"

namespace kt {

// Reads "quantization_config" if there is one: "fp8" with E4M3 blocks, or compressed-tensors "pack-quantized" INT4 with
// symmetric groups of 32 (routed experts only, as Kimi-K2 has it). Anything else is refused by name.
QuantSpec read_quantization(const ConfigReader& config);

}  // namespace kt
