#include "runtime/arch/families.h"
#include "runtime/arch/qwen.h"

// Qwen1.5-MoE and Qwen2-57B-A14B: biases on q, k and v, no norms on them, a gated shared expert.

namespace kt {
namespace {

ModelConfig parse_qwen2_moe(const nlohmann::json& hf_config) {
  const ConfigReader json(hf_config, "config.json: ");
  ModelConfig config;
  qwen::read_skeleton(json, config);
  qwen::read_attention(json, config);
  qwen::read_rope(json, 1e4, 1.0, config);
  qwen::read_experts(json, config);
  qwen::read_shared_expert(json, config);
  qwen::read_dense_layers(json, config);
  config.attention.bias = json.boolean_or("qkv_bias", true);
  config.moe.norm_topk = json.boolean_or("norm_topk_prob", false);
  return config;
}

}  // namespace

constinit const Arch kQwen2Moe = {
    .hf_name = "Qwen2MoeForCausalLM", .model_type = "qwen2_moe", .parse = parse_qwen2_moe, .prefix = "model."};

}  // namespace kt
