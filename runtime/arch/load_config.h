#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "runtime/arch/arch.h"
#include "runtime/base/sampling_defaults.h"

namespace kt {

// A model folder's description of itself.
struct LoadedConfig {
  const Arch& arch;
  ModelConfig config;  // eos: of both files, each once
  SamplingDefaults sampling;
  nlohmann::json raw;  // config.json
};

// Reads config.json, which must be there, and generation_config.json, which may be. Throws Error(kExitModel).
LoadedConfig load_model_config(const std::filesystem::path& folder);

}  // namespace kt
