#pragma once

#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <string_view>

#include "runtime/arch/config.h"

namespace kt {

// How a checkpoint stores some families of tensors.
enum class ExpertLayout : uint8_t {
  per_expert,     // {experts}.E.gate_proj.weight [inter, hidden], up_proj.weight, down_proj.weight [hidden, inter]
  fused_gate_up,  // {experts}.gate_up_proj [E, 2 inter, hidden] (gate rows first), {experts}.down_proj [E, hidden,
                  // inter]
};
enum class DeltaLayout : uint8_t {
  grouped,   // in_proj_qkvz and in_proj_ba, grouped by key head
  separate,  // in_proj_qkv, in_proj_z, in_proj_b, in_proj_a, each in head order
};

// All that is particular to one architecture. Tensor names are derived from the prefixes; layer tensors are
// "{layers}.N.{suffix}" with the suffixes that the Hugging Face models of this family share (see weights/weights.cpp).
struct Arch {
  std::string_view hf_name;                               // config.json "architectures"[0]
  std::string_view model_type;                            // accepted when the architecture's name is unknown
  ModelConfig (*parse)(const nlohmann::json& hf_config);  // throws Error(kExitModel) naming the key
  std::string_view prefix;                                // "model." or "model.language_model."
  std::string_view other_prefix = {};                     // that checkpoints made from a release may have instead
  ExpertLayout experts = ExpertLayout::per_expert;        // the one releases use; loaders take either
  DeltaLayout delta = DeltaLayout::grouped;
  std::string_view shared_expert = "shared_expert";  // in mlp
  std::string_view skipped[3] = {};                  // tensor prefixes that are not part of the language model
};

std::span<const Arch> all_archs();
// By "architectures"[0], else by model_type; throws Error(kExitModel) listing what is known.
const Arch& find_arch(const nlohmann::json& hf_config);
// Its config, read and checked (check_model.h).
ModelConfig parse_model(const nlohmann::json& hf_config);

}  // namespace kt
