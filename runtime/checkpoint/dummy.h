#pragma once

#include <cstdint>
#include <memory>

#include "runtime/checkpoint/safetensors.h"

namespace kt {

struct DummyOptions {
  bool norm_plus_one = false;  // ModelConfig::norm_plus_one: norm weights are stored around 0
  uint64_t seed = 0;
};

// Random bf16 weights for any name and shape (load-format: dummy). A value depends on seed, name and position alone, so
// all ranks agree whatever slice they ask for and in whatever order. The name decides the distribution: matrices and
// biases are about normal with standard deviation 0.02, norms are 1 (or 0), A_log and dt_bias as Mamba-2 starts them.
std::unique_ptr<Checkpoint> dummy_checkpoint(const DummyOptions& options);

}  // namespace kt
