#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "runtime/arch/arch.h"
#include "runtime/base/error.h"
#include "tests/refusal_of.h"

namespace kt {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;

// The published numbers of the releases.
json deepseek_v32() {
  return json::parse(R"({"architectures": ["DeepseekV32ForCausalLM"], "model_type": "deepseek_v32",
    "attention_bias": false, "eos_token_id": 1, "first_k_dense_replace": 3, "hidden_act": "silu", "hidden_size": 7168,
    "index_head_dim": 128, "index_n_heads": 64, "index_topk": 2048, "intermediate_size": 18432, "kv_lora_rank": 512,
    "max_position_embeddings": 163840, "moe_intermediate_size": 2048, "moe_layer_freq": 1, "n_group": 8,
    "n_routed_experts": 256, "n_shared_experts": 1, "norm_topk_prob": true, "num_attention_heads": 128,
    "num_experts_per_tok": 8, "num_hidden_layers": 61, "num_key_value_heads": 128, "num_nextn_predict_layers": 1,
    "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
    "quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
      "scale_fmt": "ue8m0", "weight_block_size": [128, 128]},
    "rms_norm_eps": 1e-06, "rope_scaling": {"beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0,
      "mscale_all_dim": 1.0, "original_max_position_embeddings": 4096, "type": "yarn"},
    "rope_theta": 10000, "routed_scaling_factor": 2.5, "scoring_func": "sigmoid", "tie_word_embeddings": false,
    "topk_group": 4, "topk_method": "noaux_tc", "v_head_dim": 128, "vocab_size": 129280})");
}

json kimi_k2() {
  json config = deepseek_v32();
  for (const char* key : {"index_head_dim", "index_n_heads", "index_topk", "quantization_config"}) config.erase(key);
  config["architectures"] = {"DeepseekV3ForCausalLM"};
  config["model_type"] = "kimi_k2";
  config["first_k_dense_replace"] = 1;
  config["n_group"] = config["topk_group"] = 1;
  config["n_routed_experts"] = 384;
  config["num_attention_heads"] = 64;
  config["rms_norm_eps"] = 1e-5;
  config["rope_scaling"]["factor"] = 64.0;
  config["rope_theta"] = 50000.0;
  config["routed_scaling_factor"] = 2.827;
  return config;
}

ModelConfig parse(const json& config) { return parse_model(config); }

std::string refusal(const json& config) {
  return refusal_of([&] { parse(config); }, kExitModel);
}
std::string refusal_with(json config, const std::string& key, const json& value) {
  config[json::json_pointer("/" + key)] = value;
  return refusal(config);
}

TEST(DeepseekArch, ReadsV32) {
  const ModelConfig c = parse(deepseek_v32());

  EXPECT_EQ(c.query_heads(), 128);
  EXPECT_EQ(c.attention.heads, 0);
  EXPECT_EQ(c.mla.q_rank, 1536);
  EXPECT_EQ(c.mla.kv_rank, 512);
  EXPECT_EQ(c.mla.head_dim(), 192);
  EXPECT_EQ(c.mla.cached_dim(), 576);
  EXPECT_EQ(c.mla.value_dim, 128);
  EXPECT_NEAR(c.mla.scale * std::sqrt(192.0), 1.8739, 1e-4);  // m^2 of factor 40
  EXPECT_EQ(c.mla.rope.yarn_factor, 40.0);
  EXPECT_EQ(c.mla.rope.original_context, 4096);
  ASSERT_TRUE(c.mla.indexer);
  EXPECT_EQ(c.mla.indexer->heads, 64);
  EXPECT_EQ(c.mla.indexer->head_dim, 128);
  EXPECT_EQ(c.mla.indexer->top_k, 2048);
  EXPECT_EQ(c.layers.size(), 61u);  // not the multi-token-prediction layer
  EXPECT_EQ(c.layers[2].ffn, Ffn::dense);
  EXPECT_EQ(c.layers[3].ffn, Ffn::moe);
  EXPECT_EQ(c.layers[3].mixer, Mixer::mla);
  EXPECT_EQ(c.dense_inter, 18432);
  EXPECT_EQ(c.moe.experts, 256);
  EXPECT_EQ(c.moe.shared_inter, 2048);
  EXPECT_FALSE(c.moe.shared_gate);
  EXPECT_TRUE(c.moe.norm_topk);
  ASSERT_TRUE(c.moe.sigmoid);
  EXPECT_EQ(c.moe.sigmoid->groups, 8);
  EXPECT_EQ(c.moe.sigmoid->kept_groups, 4);
  EXPECT_FLOAT_EQ(c.moe.sigmoid->scale, 2.5f);
  EXPECT_EQ(c.quant.stored, Stored::fp8_block);
  EXPECT_THAT(c.eos, ElementsAre(1));
  EXPECT_EQ(find_arch(deepseek_v32()).shared_expert, "shared_experts");
}

TEST(DeepseekArch, ReadsKimiK2UnderAllItsNames) {
  const ModelConfig c = parse(kimi_k2());

  EXPECT_FALSE(c.mla.indexer);
  EXPECT_NEAR(c.mla.scale * std::sqrt(192.0), 2.0047, 1e-4);  // m^2 of factor 64
  EXPECT_EQ(c.moe.sigmoid->groups, 1);
  EXPECT_FLOAT_EQ(c.norm_eps, 1e-5f);
  EXPECT_EQ(c.layers[0].ffn, Ffn::dense);
  EXPECT_EQ(c.layers[1].ffn, Ffn::moe);
  for (const char* type : {"kimi_k2", "deepseek_v3"}) {
    json config = kimi_k2();
    config.erase("architectures");
    config["model_type"] = type;
    EXPECT_EQ(parse(config).query_heads(), 64) << type;
  }
}

TEST(DeepseekArch, TakesYarnFromEitherPlaceAndDoesWithout) {
  json config = kimi_k2();
  json rope = config["rope_scaling"];
  config.erase("rope_scaling");
  EXPECT_NEAR(parse(config).mla.scale * std::sqrt(192.0), 1.0, 1e-6);
  EXPECT_EQ(parse(config).mla.rope.yarn_factor, 1.0);

  rope.erase("type");
  rope["rope_type"] = "yarn";
  rope["rope_theta"] = 70000.0;
  config["rope_parameters"] = rope;
  EXPECT_EQ(parse(config).mla.rope.yarn_factor, 64.0);
  EXPECT_EQ(parse(config).mla.rope.theta, 70000.0);
}

TEST(DeepseekArch, ReadsWhatTransformers5Saves) {
  json config = deepseek_v32();
  json rope = config["rope_scaling"];
  rope.erase("type");
  rope.update({{"rope_type", "yarn"}, {"rope_theta", 10000.0}});
  for (const char* key : {"rope_scaling", "rope_theta", "moe_layer_freq", "scoring_func", "topk_method"})
    config.erase(key);
  config.update({{"rope_parameters", rope},
                 {"dtype", "bfloat16"},
                 {"head_dim", 64},
                 {"qk_head_dim", 192},
                 {"num_local_experts", 256}});
  config["layer_types"] = std::vector<std::string>(61, "indexed_attention");
  config["mlp_layer_types"] = std::vector<std::string>(61, "sparse");
  for (const int dense : {0, 2, 5}) config["mlp_layer_types"][dense] = "dense";

  const ModelConfig c = parse(config);

  EXPECT_EQ(c.mla.rope.yarn_factor, 40.0);
  EXPECT_EQ(c.mla.head_dim(), 192);
  EXPECT_EQ(c.moe.experts, 256);
  EXPECT_EQ(c.layers[2].ffn, Ffn::dense);
  EXPECT_EQ(c.layers[1].ffn, Ffn::moe);
  EXPECT_EQ(c.layers[5].ffn, Ffn::dense);
  EXPECT_THAT(refusal_with(config, "mlp_layer_types", {"dense"}), HasSubstr("expected num_hidden_layers = 61 entries"));
  EXPECT_THAT(refusal_with(config, "mlp_layer_types/3", "odd"), HasSubstr("\"odd\" (layer 3) is not supported"));
  EXPECT_THAT(refusal_with(config, "rope_interleave", false), HasSubstr("rope_interleave: rotated halves"));
  EXPECT_THAT(refusal_with(config, "rope_parameters/attention_factor", 1.4), HasSubstr("attention_factor 1.4"));
  EXPECT_THAT(refusal_with(config, "rope_parameters/truncate", false), HasSubstr("truncated"));
  config.erase("n_routed_experts");
  EXPECT_EQ(parse(config).moe.experts, 256);
}

TEST(DeepseekArch, RefusesByNameWhatItCannotHonour) {
  const json v32 = deepseek_v32();
  EXPECT_THAT(refusal_with(v32, "q_lora_rank", nullptr), HasSubstr("q_lora_rank: models without a latent"));
  EXPECT_THAT(refusal_with(v32, "kv_lora_rank", 500), HasSubstr("kv_lora_rank: expected a multiple of 32, found 500"));
  EXPECT_THAT(refusal_with(v32, "index_head_dim", 32), HasSubstr("at least qk_rope_head_dim = 64, found 32"));
  EXPECT_THAT(refusal_with(v32, "index_topk", 0), HasSubstr("index_topk: expected an integer in [1"));
  EXPECT_THAT(refusal_with(v32, "n_group", 7), HasSubstr("a divisor of the number of experts = 256"));
  EXPECT_THAT(refusal_with(v32, "topk_group", 9), HasSubstr("topk_group: expected an integer in [1, 8]"));
  EXPECT_THAT(refusal_with(v32, "num_experts_per_tok", 129), HasSubstr("at most 128, the experts of 4 of 8 groups"));
  EXPECT_THAT(refusal_with(v32, "scoring_func", "softmax"), HasSubstr("scoring_func: \"softmax\" is not supported"));
  EXPECT_THAT(refusal_with(v32, "topk_method", "greedy"), HasSubstr("topk_method: \"greedy\" is not supported"));
  EXPECT_THAT(refusal_with(v32, "moe_layer_freq", 2), HasSubstr("moe_layer_freq"));
  EXPECT_THAT(refusal_with(v32, "hidden_act", "gelu"), HasSubstr("hidden_act: \"gelu\""));
  EXPECT_THAT(refusal_with(v32, "attention_bias", true), HasSubstr("attention_bias"));
  EXPECT_THAT(refusal_with(v32, "rope_scaling/type", "linear"), HasSubstr("\"linear\" is not supported, only yarn"));
  EXPECT_THAT(refusal_with(v32, "rope_scaling/mscale", 0.7), HasSubstr("mscale 0.7 and mscale_all_dim 1 differ"));
  EXPECT_THAT(refusal_with(v32, "quantization_config/quant_method", "awq"), HasSubstr("quant_method"));
}

TEST(DeepseekArch, SurvivesOddValuesEverywhere) {
  const std::vector<json> odd = {nullptr, true, 0, -1, UINT64_MAX, INT64_MIN, 1e300, "", json::array(), json::object()};
  int refused = 0;
  for (const json& good : {deepseek_v32(), kimi_k2()}) {
    const json leaves = good.flatten();
    for (const auto& [pointer, leaf] : leaves.items())
      for (const json& value : odd) {
        json config = good;
        config[json::json_pointer(pointer)] = value;
        refused += refusal(config) != "accepted";
      }
  }
  EXPECT_GT(refused, 400);
}

}  // namespace
}  // namespace kt
