#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "runtime/arch/load_config.h"

namespace kt {

// The sizes of real releases, as their config.json has them: only what the parsers need.

inline nlohmann::json fp8_blocks() {
  return {{"quant_method", "fp8"}, {"fmt", "e4m3"}, {"weight_block_size", {128, 128}}};
}

inline nlohmann::json yarn(double factor) {
  return {{"type", "yarn"},
          {"factor", factor},
          {"beta_fast", 32},
          {"beta_slow", 1},
          {"mscale", 1.0},
          {"mscale_all_dim", 1.0},
          {"original_max_position_embeddings", 4096}};
}

inline nlohmann::json deepseek_v32() {
  return {{"architectures", {"DeepseekV32ForCausalLM"}},
          {"model_type", "deepseek_v32"},
          {"hidden_size", 7168},
          {"num_hidden_layers", 61},
          {"vocab_size", 129280},
          {"max_position_embeddings", 163840},
          {"num_attention_heads", 128},
          {"q_lora_rank", 1536},
          {"kv_lora_rank", 512},
          {"qk_nope_head_dim", 128},
          {"qk_rope_head_dim", 64},
          {"v_head_dim", 128},
          {"index_n_heads", 64},
          {"index_head_dim", 128},
          {"index_topk", 2048},
          {"n_routed_experts", 256},
          {"num_experts_per_tok", 8},
          {"moe_intermediate_size", 2048},
          {"n_shared_experts", 1},
          {"n_group", 8},
          {"topk_group", 4},
          {"routed_scaling_factor", 2.5},
          {"first_k_dense_replace", 3},
          {"intermediate_size", 18432},
          {"rope_theta", 10000},
          {"rope_scaling", yarn(40)},
          {"quantization_config", fp8_blocks()}};
}

inline nlohmann::json kimi_k2_thinking() {
  nlohmann::json config = deepseek_v32();
  config["architectures"] = {"DeepseekV3ForCausalLM"};
  config["model_type"] = "kimi_k2";
  config["vocab_size"] = 163840;
  config["max_position_embeddings"] = 262144;
  config["num_attention_heads"] = 64;
  config["n_routed_experts"] = 384;
  config["n_group"] = 1;
  config["topk_group"] = 1;
  config["first_k_dense_replace"] = 1;
  config["rope_scaling"] = yarn(64);
  const nlohmann::json weights = {{"num_bits", 4}, {"group_size", 32}, {"symmetric", true}, {"type", "int"}};
  config["quantization_config"] = {{"quant_method", "compressed-tensors"},
                                   {"format", "pack-quantized"},
                                   {"config_groups", {{"group_0", {{"weights", weights}}}}}};
  for (const char* key : {"index_n_heads", "index_head_dim", "index_topk"}) config.erase(key);
  return config;
}

// Qwen3-Next-80B-A3B has the same sizes.
inline nlohmann::json qwen3_coder_next(bool fp8) {
  nlohmann::json config = {{"architectures", {"Qwen3NextForCausalLM"}},
                           {"model_type", "qwen3_next"},
                           {"hidden_size", 2048},
                           {"num_hidden_layers", 48},
                           {"vocab_size", 151936},
                           {"max_position_embeddings", 262144},
                           {"num_attention_heads", 16},
                           {"num_key_value_heads", 2},
                           {"head_dim", 256},
                           {"full_attention_interval", 4},
                           {"linear_num_key_heads", 16},
                           {"linear_num_value_heads", 32},
                           {"linear_key_head_dim", 128},
                           {"linear_value_head_dim", 128},
                           {"linear_conv_kernel_dim", 4},
                           {"num_experts", 512},
                           {"num_experts_per_tok", 10},
                           {"moe_intermediate_size", 512},
                           {"shared_expert_intermediate_size", 512},
                           {"rope_theta", 1e7}};
  if (fp8) config["quantization_config"] = fp8_blocks();
  return config;
}

inline LoadedConfig loaded(nlohmann::json raw) {
  const Arch& arch = find_arch(raw);
  LoadedConfig model{.arch = arch, .config = parse_model(raw), .sampling = {}, .raw = std::move(raw)};
  model.config.architecture = arch.hf_name;
  return model;
}

}  // namespace kt
