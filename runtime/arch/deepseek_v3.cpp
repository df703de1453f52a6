#include <fmt/format.h>

#include <cmath>

#include "runtime/arch/families.h"
#include "runtime/arch/limits.h"
#include "runtime/arch/read_config.h"
#include "runtime/arch/skeleton.h"

// DeepSeek-V3 and Kimi-K2: multi-head latent attention, a few dense layers, then experts chosen by sigmoid scores in
// groups with one ungated shared expert. DeepSeek-V3.2 adds the indexer of sparse attention. The multi-token-prediction
// layer, stored as the layer after the last, is not loaded.

namespace kt {
namespace {

// Settings of YaRN are in rope_scaling, or beside theta in rope_parameters (transformers 5).
void read_yarn(const ConfigReader& rope, const char* key, const ConfigReader& json, MlaSpec& mla) {
  const std::string type = rope.text_or("rope_type", rope.text_or("type", "default"));
  if (type == "default") return;
  if (type != "yarn") json.refuse(key, fmt::format("type \"{}\" is not supported, only yarn and default are", type));
  mla.rope.yarn_factor = rope.number("factor", 1.0, 1e6);
  mla.rope.beta_fast = rope.number_or("beta_fast", 32.0, 1e-3, 1e6);
  mla.rope.beta_slow = rope.number_or("beta_slow", 1.0, 1e-3, 1e6);
  mla.rope.original_context = rope.integer("original_max_position_embeddings", 1, kMaxContext);
  const double mscale = rope.number_or("mscale", 1.0, 0.0, 100.0);
  const double mscale_all_dim = rope.number_or("mscale_all_dim", 0.0, 0.0, 100.0);
  if (mscale != mscale_all_dim) {
    json.refuse(key, fmt::format("mscale {} and mscale_all_dim {} differ: scaled cosines and sines are not supported",
                                 mscale, mscale_all_dim));
  }
  if (const double factor = rope.number_or("attention_factor", 1.0, 0.0, 100.0); factor != 1.0)
    json.refuse(key, fmt::format("attention_factor {}: scaled cosines and sines are not supported", factor));
  if (!rope.boolean_or("truncate", true)) json.refuse(key, "only truncated correction ranges are supported");
  const double m = 0.1 * mscale_all_dim * std::log(mla.rope.yarn_factor) + 1.0;
  mla.scale *= static_cast<float>(m * m);
}

void read_attention(const ConfigReader& json, ModelConfig& config) {
  MlaSpec& mla = config.mla;
  mla.heads = json.integer("num_attention_heads", 1, kMaxHeads);
  if (!json.has("q_lora_rank")) json.refuse("q_lora_rank", "models without a latent of the queries are not supported");
  mla.q_rank = json.integer("q_lora_rank", 1, kMaxWidth);
  mla.kv_rank = json.integer("kv_lora_rank", 1, kMaxHeadDim);
  mla.nope_dim = json.integer("qk_nope_head_dim", 1, kMaxHeadDim);
  mla.value_dim = json.integer("v_head_dim", 1, kMaxHeadDim);
  mla.rope.dims = json.integer("qk_rope_head_dim", 1, kMaxHeadDim);
  mla.rope.theta = json.number_or("rope_theta", 1e4, 2.0, 1e15);
  mla.scale = 1.0f / std::sqrt(static_cast<float>(mla.head_dim()));
  if (!json.boolean_or("rope_interleave", true))
    json.refuse("rope_interleave", "rotated halves are not supported for this architecture, only pairs are");
  if (json.has("rope_parameters")) {
    const ConfigReader rope = json.object("rope_parameters");
    mla.rope.theta = rope.number_or("rope_theta", mla.rope.theta, 2.0, 1e15);
    read_yarn(rope, "rope_parameters", json, mla);
  } else if (json.has("rope_scaling")) {
    read_yarn(json.object("rope_scaling"), "rope_scaling", json, mla);
  }
  for (LayerSpec& layer : config.layers) layer.mixer = Mixer::mla;
}

void read_indexer(const ConfigReader& json, ModelConfig& config) {
  IndexerSpec& indexer = config.mla.indexer.emplace();
  indexer.heads = json.integer("index_n_heads", 1, kMaxHeads);
  indexer.head_dim = json.integer("index_head_dim", 1, kMaxHeadDim);
  indexer.top_k = json.integer("index_topk", 1, kMaxContext);
}

void read_groups(const ConfigReader& json, MoeSpec& moe) {
  SigmoidSpec& sigmoid = moe.sigmoid.emplace();
  sigmoid.scale = static_cast<float>(json.number_or("routed_scaling_factor", 1.0, 0.0, 1e6));
  sigmoid.groups = json.integer_or("n_group", 1, 1, kMaxExpertGroups);
  sigmoid.kept_groups = json.integer_or("topk_group", 1, 1, sigmoid.groups);
}

// The first layers, or those that mlp_layer_types names (transformers 5).
void read_dense_layers(const ConfigReader& json, ModelConfig& config) {
  const size_t layers = config.layers.size();
  const int first = json.integer_or("first_k_dense_replace", 0, 0, kMaxLayers);
  const std::vector<std::string> types = json.texts("mlp_layer_types");
  if (!types.empty() && types.size() != layers)
    json.refuse("mlp_layer_types",
                fmt::format("expected num_hidden_layers = {} entries, found {}", layers, types.size()));
  bool any = false;
  for (size_t n = 0; n < layers; ++n) {
    if (!types.empty() && types[n] != "dense" && types[n] != "sparse")
      json.refuse("mlp_layer_types",
                  fmt::format("\"{}\" (layer {}) is not supported, only dense and sparse are", types[n], n));
    if (types.empty() ? static_cast<int>(n) >= first : types[n] == "sparse") continue;
    config.layers[n].ffn = Ffn::dense;
    any = true;
  }
  if (any) config.dense_inter = json.integer("intermediate_size", 1, kMaxWidth);
}

void read_experts(const ConfigReader& json, ModelConfig& config) {
  require_text(json, "scoring_func", "sigmoid");
  require_text(json, "topk_method", "noaux_tc");
  if (json.integer_or("moe_layer_freq", 1, 1, kMaxLayers) != 1) {
    json.refuse("moe_layer_freq", "dense layers between those with experts are not supported");
  }
  MoeSpec& moe = config.moe;
  moe.experts = json.integer(json.one_of({"n_routed_experts", "num_local_experts", "num_experts"}), 1, kMaxExperts);
  moe.top_k = json.integer("num_experts_per_tok", 1, kMaxExperts);
  moe.inter = json.integer("moe_intermediate_size", 1, kMaxWidth);
  moe.shared_inter = moe.inter * json.integer_or("n_shared_experts", 0, 0, kMaxWidth / moe.inter);
  moe.norm_topk = json.boolean_or("norm_topk_prob", true);
  read_groups(json, moe);

  read_dense_layers(json, config);
}

ModelConfig parse_v3(const nlohmann::json& hf_config) {
  const ConfigReader json(hf_config, "config.json: ");
  ModelConfig config;
  read_skeleton(json, config);
  read_attention(json, config);
  read_experts(json, config);
  return config;
}

ModelConfig parse_v32(const nlohmann::json& hf_config) {
  ModelConfig config = parse_v3(hf_config);
  read_indexer({hf_config, "config.json: "}, config);
  return config;
}

}  // namespace

constinit const Arch kDeepseekV3 = {.hf_name = "DeepseekV3ForCausalLM",
                                    .model_type = "deepseek_v3",
                                    .parse = parse_v3,
                                    .prefix = "model.",
                                    .shared_expert = "shared_experts"};

constinit const Arch kDeepseekV32 = {.hf_name = "DeepseekV32ForCausalLM",
                                     .model_type = "deepseek_v32",
                                     .parse = parse_v32,
                                     .prefix = "model.",
                                     .shared_expert = "shared_experts"};

// Releases name DeepseekV3ForCausalLM as their architecture.
constinit const Arch kKimiK2 = {.hf_name = "KimiK2ForCausalLM",
                                .model_type = "kimi_k2",
                                .parse = parse_v3,
                                .prefix = "model.",
                                .shared_expert = "shared_experts"};

}  // namespace kt
