#include "runtime/arch/families.h"
#include "runtime/arch/qwen.h"

// Qwen3-Next-80B-A3B, Qwen3-Coder-Next: gated delta nets with gated attention in between, norms stored around zero,
// a gated shared expert, a quarter of each head rotated.

namespace kt {
namespace {

ModelConfig parse_qwen3_next(const nlohmann::json& hf_config) {
  const ConfigReader json(hf_config, "config.json: ");
  ModelConfig config;
  qwen::read_skeleton(json, config);
  qwen::read_attention(json, config);
  qwen::read_rope(json, 1e4, 0.25, config);
  qwen::read_experts(json, config);
  qwen::read_shared_expert(json, config);
  qwen::read_dense_layers(json, config);
  qwen::read_hybrid_layers(json, config);
  qwen::read_delta(json, config);
  config.norm_plus_one = true;
  config.attention.qk_norm = true;
  config.attention.gated = true;
  config.moe.norm_topk = json.boolean_or("norm_topk_prob", true);
  return config;
}

}  // namespace

constinit const Arch kQwen3Next = {.hf_name = "Qwen3NextForCausalLM",
                                   .model_type = "qwen3_next",
                                   .parse = parse_qwen3_next,
                                   .prefix = "model.",
                                   .skipped = {"mtp."}};

}  // namespace kt
