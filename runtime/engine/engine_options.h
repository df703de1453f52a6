#pragma once

#include "runtime/arch/config.h"
#include "runtime/config/run_config.h"
#include "runtime/engine/engine.h"
#include "runtime/step/step.h"

namespace kt {

// What the options mean for this model's engine, defaults filled in. Throws Error(kExitUsage).
EngineConfig engine_config(const RunConfig& run, const ModelConfig& model);

// What such an engine demands of the ranks.
CacheLimits cache_limits(const EngineConfig& engine);
int longest_sequence(const EngineConfig& engine);  // tokens

}  // namespace kt
