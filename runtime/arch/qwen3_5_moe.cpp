#include "runtime/arch/families.h"
#include "runtime/arch/quantization.h"
#include "runtime/arch/qwen.h"

// The language model of Qwen3.5-MoE: Qwen3-Next with fused experts and separate input projections of the delta nets,
// its config in text_config. MRoPE is plain rope for text, where the three position components are equal.

namespace kt {
namespace {

ModelConfig parse(const nlohmann::json& hf_config) {
  const ConfigReader release(hf_config, "config.json: ");
  const ConfigReader json = release.object("text_config");
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

}  // namespace

constinit const Arch kQwen35Moe = {.hf_name = "Qwen3_5MoeForConditionalGeneration",
                                   .model_type = "qwen3_5_moe",
                                   .parse = parse,
                                   .prefix = "model.language_model.",
                                   .experts = ExpertLayout::fused_gate_up,
                                   .delta = DeltaLayout::separate,
                                   .skipped = {"model.visual.", "mtp."}};

}  // namespace kt
