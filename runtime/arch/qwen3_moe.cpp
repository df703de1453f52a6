#include "runtime/arch/families.h"
#include "runtime/arch/qwen.h"

// Qwen3-30B-A3B, Qwen3-235B-A22B: norms on each q and k head, no shared expert. head_dim is not hidden / heads.

namespace kt {
namespace {

ModelConfig parse_qwen3_moe(const nlohmann::json& hf_config) {
  const ConfigReader json(hf_config, "config.json: ");
  ModelConfig config;
  qwen::read_skeleton(json, config);
  qwen::read_attention(json, config);
  qwen::read_rope(json, 1e4, 1.0, config);
  qwen::read_experts(json, config);
  qwen::read_dense_layers(json, config);
  config.attention.qk_norm = true;
  config.moe.norm_topk = json.boolean_or("norm_topk_prob", false);
  return config;
}

}  // namespace

constinit const Arch kQwen3Moe = {
    .hf_name = "Qwen3MoeForCausalLM", .model_type = "qwen3_moe", .parse = parse_qwen3_moe, .prefix = "model."};

}  // namespace kt
