#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "runtime/arch/arch.h"

namespace kt {

// What generation_config.json recommends; a request's own values come first. Absent: the file does not say.
struct SamplingDefaults {
  std::optional<float> temperature, top_p, min_p, repetition_penalty;
  std::optional<int> top_k;  // -1: all
};

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
