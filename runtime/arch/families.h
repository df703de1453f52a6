#pragma once

#include <nlohmann/json.hpp>

#include "runtime/arch/arch.h"

// One line here and one in registry.cpp is what a new architecture adds besides its own file.

namespace kt {

extern const Arch kDeepseekV3;
extern const Arch kDeepseekV32;
extern const Arch kKimiK2;
extern const Arch kQwen2Moe;
extern const Arch kQwen3Moe;
extern const Arch kQwen3Next;
extern const Arch kQwen35Moe;
extern const Arch kQwen35MoeText;

}  // namespace kt
