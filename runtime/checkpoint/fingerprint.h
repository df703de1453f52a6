#pragma once

#include <string>
#include <string_view>

#include "runtime/checkpoint/safetensors.h"

namespace kt {

// 16 hexadecimal digits that tell checkpoints apart without reading them: config.json, every tensor's name, type,
// shape, file and position in it, and the first 64 bytes of the first and last tensor of each file (releases of one
// model differ in nothing else).
std::string fingerprint(const Checkpoint& checkpoint, std::string_view config);

// Likewise of what is in the tensors: all of it up to 64 MiB, else the beginning, middle and end of 256 tensors.
std::string sampled_content(const Checkpoint& checkpoint);

}  // namespace kt
