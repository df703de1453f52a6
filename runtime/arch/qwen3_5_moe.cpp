#include "runtime/arch/families.h"
#include "runtime/arch/quantization.h"
#include "runtime/arch/qwen.h"

// The language model of Qwen3.5-MoE: Qwen3-Next with fused experts and separate input projections of the delta nets,
// its config in text_config. MRoPE is plain rope for text, where the three position components are equal. Saved as a
// text model, the config is what text_config was.

namespace kt {
namespace {

ModelConfig read(const ConfigReader& release, const ConfigReader& json) {
  ModelConfig config;
  qwen::read_skeleton(json, config);
  config.quant = read_quantization(release);
  qwen::read_attention(json, config);
  qwen::read_rope(json, 1e7, 0.25, config);
  qwen::read_experts(json, config);
  qwen::read_shared_expert(json, config);
  qwen::read_hybrid_layers(json, config);
  qwen::read_delta(json, config);
  for (const char* key : {"mlp_only_layers", "decoder_sparse_step"}) {
    const std::vector<int> given = json.integers(key, 0, INT32_MAX);
    if (!given.empty() && given != std::vector{1}) json.refuse(key, "every layer of this architecture has experts");
  }
  if (!json.boolean_or("attn_output_gate", true)) {
    json.refuse("attn_output_gate", "attention without an output gate is not supported");
  }
  config.norm_plus_one = true;
  config.attention.qk_norm = true;
  config.attention.gated = true;
  config.moe.norm_topk = true;  // the config has no key for it
  config.tied_head = release.boolean_or("tie_word_embeddings", config.tied_head);
  if (config.eos.empty()) config.eos = release.integers("eos_token_id", 0, config.vocab);
  return config;
}

ModelConfig parse_qwen3_5_moe(const nlohmann::json& hf_config) {
  const ConfigReader release(hf_config, "config.json: ");
  return read(release, release.object("text_config"));
}

ModelConfig parse_text(const nlohmann::json& hf_config) {
  const ConfigReader json(hf_config, "config.json: ");
  return read(json, json);
}

}  // namespace

constinit const Arch kQwen35Moe = {.hf_name = "Qwen3_5MoeForConditionalGeneration",
                                   .model_type = "qwen3_5_moe",
                                   .parse = parse_qwen3_5_moe,
                                   .prefix = "model.language_model.",
                                   .other_prefix = "model.",
                                   .experts = ExpertLayout::fused_gate_up,
                                   .delta = DeltaLayout::separate,
                                   .skipped = {"model.visual.", "mtp."}};

constinit const Arch kQwen35MoeText = {.hf_name = "Qwen3_5MoeForCausalLM",
                                       .model_type = "qwen3_5_moe_text",
                                       .parse = parse_text,
                                       .prefix = "model.",
                                       .other_prefix = "model.language_model.",
                                       .experts = ExpertLayout::fused_gate_up,
                                       .delta = DeltaLayout::separate,
                                       .skipped = {"model.visual.", "mtp."}};

}  // namespace kt
