#pragma once

#include <string>
#include <string_view>

#include "runtime/checkpoint/safetensors.h"

namespace kt {

// 16 hexadecimal digits that tell checkpoints apart without reading them: config.json, every tensor's name, type,
// shape, file and position in it, and the first 64 bytes of the first and last tensor of each file (releases of one
// model differ in nothing else).
std::string fingerprint(const Checkpoint& checkpoint, std::string_view config);

}  // namespace kt
