#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "kernels/device.h"
#include "runtime/arch/arch.h"
#include "runtime/checkpoint/packed.h"
#include "runtime/checkpoint/safetensors.h"

namespace kt {

// A checkpoint whose routed experts are converted, or were.
struct ConversionInput {
  const Checkpoint& checkpoint;
  const Arch& arch;
  const ModelConfig& config;
  std::string config_text;  // config.json, for the fingerprint
};

std::string conversion_fingerprint(const ConversionInput& input);

// What a conversion will write, no layer done. Throws Error(kExitUsage) when the model has no experts or they are not
// stored as `input_type` ("bf16", "fp16", "fp8", "int4") says, naming the tensor.
PackedManifest plan_conversion(const ConversionInput& input, std::string_view input_type, Format format);

// Writes the folder layer by layer, experts in parallel, one at a time on each thread. Layers that the folder's
// manifest has and whose files are of that size are kept, so a conversion that was killed goes on and ends with the
// same bytes. Throws Error: kExitUsage when the folder holds another conversion, kExitTryAgain when it cannot be
// written.
void convert_experts(const ConversionInput& input, const PackedManifest& plan, const std::filesystem::path& folder,
                     ThreadPool& pool);

// Verifies every checksum; throws Error(kExitModel) with file, layer and expert.
void check_packed(const std::filesystem::path& folder, const PackedManifest& manifest, ThreadPool& pool);

// How far one layer's weights are from their source.
struct LayerDeviation {
  double weights = 0.0;  // |dequantised - source| / |source|, Frobenius norms over all experts
  double output = 0.0;   // the same of one expert's output for one random row, computed with the given kernels
};
// Throws Error(kExitModel) with layer, expert, matrix and row when a weight is further from its source than its format
// allows: then the folder was made from something else.
LayerDeviation compare_layer(const ConversionInput& input, const std::filesystem::path& folder,
                             const PackedManifest& manifest, int layer, Device& device);

}  // namespace kt
