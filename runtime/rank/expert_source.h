#pragma once

#include <memory>
#include <optional>

#include "runtime/arch/load_config.h"
#include "runtime/config/run_config.h"
#include "runtime/model/experts/bank.h"

namespace kt {

// What the options kt-weight-path and kt-method name: files that are open, and how a bank is loaded from them.
struct ExpertFiles {
  std::unique_ptr<Checkpoint> checkpoint;  // where it is not the model's
  std::optional<LoadedConfig> config;
  std::optional<PackedManifest> packed;
  std::string warning;              // one line, or ""
  ExpertSource source;              // points into this object and at the model's checkpoint
  std::optional<ExpertSource> hot;  // of hot experts, where hot-weights wants the model's own and those are others
};
// The experts' format in memory as far as options and config tell it, without files: kt-method, else what the folder of
// kt-weight-path was converted to if it is there, else the checkpoint's own.
Format planned_format(const RunConfig& run, const ModelConfig& config);

// Throws Error: a method that the files do not have, a folder of another model, a folder that needs conversion.
std::unique_ptr<ExpertFiles> find_experts(const RunConfig& run, const LoadedConfig& model,
                                          const Checkpoint& checkpoint);

}  // namespace kt
