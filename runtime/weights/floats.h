#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "kernels/numeric.h"
#include "runtime/checkpoint/safetensors.h"

namespace kt {

// What a checkpoint stores without scales: F32, BF16 or F16. Every tensor that is read as such passes through here;
// another type is Error(kExitModel) naming the tensor.
void require_floats(StoredType found, const std::string& name);

// n numbers from a stored tensor; the type is one of those. Exact, and rounded once unless stored as BF16.
void to_floats(StoredType type, const std::byte* from, int64_t n, float* out);
void to_bf16_rounded(StoredType type, const std::byte* from, int64_t n, bf16* out);

// A small tensor.
std::vector<float> read_floats(const Checkpoint& checkpoint, const std::string& name, std::vector<int64_t> shape);

}  // namespace kt
