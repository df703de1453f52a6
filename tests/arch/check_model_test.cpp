// One table of settings, held against every architecture that has them.

#include "runtime/arch/check_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <random>

#include "runtime/arch/arch.h"
#include "tests/refusal_of.h"

namespace kt {
namespace {

using nlohmann::json;
using testing::HasSubstr;

json softmax_experts() {
  return json::parse(R"({"hidden_size": 64, "vocab_size": 100, "max_position_embeddings": 128, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "num_experts": 8, "num_experts_per_tok": 2,
    "moe_intermediate_size": 32})");
}
json with(json config, const json& more) {
  config.update(more);
  return config;
}
json hybrid() {
  return with(softmax_experts(), json::parse(R"({"shared_expert_intermediate_size": 32, "linear_num_key_heads": 2,
    "linear_num_value_heads": 4, "linear_key_head_dim": 32, "linear_value_head_dim": 32,
    "linear_conv_kernel_dim": 4})"));
}
json latent() {
  return json::parse(R"({"hidden_size": 64, "vocab_size": 100, "max_position_embeddings": 128, "num_hidden_layers": 4,
    "num_attention_heads": 4, "q_lora_rank": 32, "kv_lora_rank": 32, "qk_nope_head_dim": 32, "qk_rope_head_dim": 32,
    "v_head_dim": 32, "n_routed_experts": 8, "num_experts_per_tok": 2, "n_group": 4, "topk_group": 2,
    "n_shared_experts": 1, "moe_intermediate_size": 32, "first_k_dense_replace": 1, "intermediate_size": 64})");
}

// A small config of every architecture, by its name.
std::map<std::string, json> every_architecture() {
  std::map<std::string, json> all;
  all["Qwen2MoeForCausalLM"] = with(softmax_experts(), {{"shared_expert_intermediate_size", 32}});
  all["Qwen3MoeForCausalLM"] = with(softmax_experts(), {{"mlp_only_layers", {0}}, {"intermediate_size", 64}});
  all["Qwen3NextForCausalLM"] = all["Qwen3_5MoeForCausalLM"] = hybrid();
  all["Qwen3_5MoeForConditionalGeneration"] = {{"text_config", hybrid()}};
  all["DeepseekV3ForCausalLM"] = all["KimiK2ForCausalLM"] = latent();
  all["DeepseekV32ForCausalLM"] = with(latent(), {{"index_n_heads", 2}, {"index_head_dim", 64}, {"index_topk", 16}});
  for (auto& [name, config] : all) config["architectures"] = {name};
  return all;
}
json& settings(json& config) { return config.contains("text_config") ? config["text_config"] : config; }

std::string refusal(const json& config) {
  return refusal_of([&] { parse_model(config); });
}

struct Row {
  const char* key;
  std::vector<int64_t> legal, illegal;
};
constexpr int64_t kHuge = 1ll << 40, kInt = 1ll << 31;
const std::vector<Row> kTable = {
    {"hidden_size", {2, 32, 64, 200, 7168, 1 << 20}, {0, -64, 63, 65, 1 << 21, kInt, kHuge}},
    {"vocab_size", {1, 99, 151936}, {0, -1, 1 << 25, kHuge}},
    {"num_hidden_layers", {1, 4, 1024}, {0, -1, 1025, kHuge}},
    {"max_position_embeddings", {1, 100, 262144}, {0, -1, kInt}},
    {"num_attention_heads", {2, 4, 64}, {0, -4, 4097, kHuge}},
    {"num_key_value_heads", {1, 2, 4}, {0, -2, 3, 8, kHuge}},
    {"head_dim", {32, 64, 96, 160, 256}, {0, -32, 1, 16, 48, 100, 1 << 15, kHuge}},
    {"num_experts", {2, 5, 512}, {0, -8, 1, 1 << 17, kHuge}},
    {"n_routed_experts", {8, 12, 256}, {0, -8, kHuge}},
    {"num_experts_per_tok", {1, 4}, {0, -1, 9, kHuge}},
    {"moe_intermediate_size", {1, 31, 33, 72, 520, 1 << 20}, {0, -32, (1 << 20) + 1, kHuge}},
    {"shared_expert_intermediate_size", {0, 1, 24, 5632}, {-1, kHuge}},
    {"intermediate_size", {1, 72, 18432}, {0, -1, kHuge}},
    {"linear_num_key_heads", {1, 2, 4}, {0, -2, 3, 8, kHuge}},
    {"linear_num_value_heads", {2, 4, 6}, {0, -4, 3, 5, kHuge}},
    {"linear_key_head_dim", {16, 48, 128}, {0, -32, 1, 8, 24, 100, kHuge}},
    {"linear_value_head_dim", {32, 96, 160}, {0, -32, 1, 16, 24, 48, 100, kHuge}},
    {"linear_conv_kernel_dim", {1, 2, 3, 4, 64}, {0, -1, 65, kHuge}},
    {"q_lora_rank", {32, 96, 1536}, {0, -32, 16, 100, kHuge}},
    {"kv_lora_rank", {32, 96, 512}, {0, -32, 16, 100, kHuge}},
    {"qk_nope_head_dim", {32, 96, 128}, {0, -32, 16, 100, kHuge}},
    {"qk_rope_head_dim", {32, 64}, {0, -32, 16, 48, 100, kHuge}},
    {"v_head_dim", {32, 96, 160, 192}, {0, -32, 16, 48, 100, kHuge}},
    {"index_head_dim", {32, 64, 96}, {0, -32, 16, 100, kHuge}},
    {"index_n_heads", {1, 3, 64}, {0, -1, kHuge}},
    {"index_topk", {1, 7, 2048}, {0, -1, kInt}},
    {"n_group", {2, 4, 8}, {0, -1, 3, 5, 16, kHuge}},
    {"topk_group", {1, 3, 4}, {0, -1, 5, kHuge}},
    {"first_k_dense_replace", {0, 1, 4, 5}, {-1, kHuge}},
};

TEST(CheckModel, EverySettingOfEveryArchitectureIsHeldToTheTable) {
  for (const auto& [name, good] : every_architecture()) {
    ASSERT_EQ(refusal(good), "accepted") << name;
    for (const Row& row : kTable) {
      json config = good;
      if (!settings(config).contains(row.key)) continue;
      for (const int64_t value : row.legal) {
        settings(config)[row.key] = value;
        EXPECT_EQ(refusal(config), "accepted") << name << ", " << row.key << " = " << value;
      }
      for (const int64_t value : row.illegal) {
        settings(config)[row.key] = value;
        EXPECT_THAT(refusal(config), HasSubstr(row.key)) << name << ", " << row.key << " = " << value;
      }
    }
  }
}

TEST(CheckModel, WidthsThatAreProductsStayInRange) {
  json config = every_architecture()["Qwen3MoeForCausalLM"];
  config.update({{"num_attention_heads", 4096}, {"num_key_value_heads", 4096}, {"head_dim", 1 << 14}});
  EXPECT_THAT(refusal(config), HasSubstr("num_attention_heads x head_dim"));
  config = every_architecture()["Qwen3NextForCausalLM"];
  config.update({{"linear_num_key_heads", 4096}, {"linear_num_value_heads", 4096}, {"linear_key_head_dim", 4096}});
  EXPECT_THAT(refusal(config), HasSubstr("linear heads x their dims"));
  config = every_architecture()["DeepseekV32ForCausalLM"];
  config.update({{"num_attention_heads", 4096}, {"v_head_dim", 4096}});
  EXPECT_THAT(refusal(config), HasSubstr("num_attention_heads x head dims"));
  config = every_architecture()["DeepseekV32ForCausalLM"];
  config.update({{"index_n_heads", 4096}, {"index_head_dim", 4096}});
  EXPECT_THAT(refusal(config), HasSubstr("index_n_heads x index_head_dim"));
}

TEST(CheckModel, WhatIsQuantisedHasWholeGroups) {
  const json int4 = json::parse(R"({"quantization_config": {"quant_method": "compressed-tensors",
    "format": "pack-quantized", "config_groups": {"group_0": {"weights": {"num_bits": 4, "group_size": 32}}}}})");
  json config = with(every_architecture()["DeepseekV3ForCausalLM"], int4);
  EXPECT_EQ(refusal(config), "accepted");
  EXPECT_THAT(refusal(with(config, {{"moe_intermediate_size", 72}})),
              HasSubstr("moe_intermediate_size of INT4 experts"));
  EXPECT_THAT(refusal(with(config, {{"hidden_size", 200}})), HasSubstr("hidden_size of INT4 experts"));

  const auto fp8 = [](int rows, int columns) {
    return json{{"quantization_config", {{"quant_method", "fp8"}, {"weight_block_size", {rows, columns}}}}};
  };
  for (const auto& [name, good] : every_architecture()) {
    for (const auto& [rows, columns] : {std::pair(128, 128), {16, 32}, {48, 160}})
      EXPECT_EQ(refusal(with(good, fp8(rows, columns))), "accepted") << name;
    EXPECT_THAT(refusal(with(good, fp8(8, 128))), HasSubstr("weight_block_size"));
    EXPECT_THAT(refusal(with(good, fp8(128, 16))), HasSubstr("weight_block_size"));
  }
}

// Settings drawn at random, also together: a config is refused with its key, or its numbers fit the kernels.
TEST(CheckModel, WhateverIsAcceptedFitsTheKernels) {
  std::mt19937 random(11);
  const std::vector<int64_t> values = {0,  1,  2,  3,  4,   6,   8,   15,   16,   24,
                                       32, 48, 64, 96, 100, 128, 160, 1000, 4096, kHuge};
  int accepted = 0, refused = 0;
  for (int round = 0; round < 400; ++round)
    for (const auto& [name, good] : every_architecture()) {
      json config = good;
      for (int changes = 1 + round % 3; changes > 0; --changes) {
        const Row& row = kTable[random() % kTable.size()];
        if (settings(config).contains(row.key)) settings(config)[row.key] = values[random() % values.size()];
      }
      if (refusal(config) != "accepted") {
        ++refused;
        continue;
      }
      ++accepted;
      const ModelConfig c = parse_model(config);
      EXPECT_EQ(c.hidden % 2, 0);
      EXPECT_EQ(c.attention.head_dim % 32, 0);
      EXPECT_EQ(c.mla.value_dim % 32, 0);
      EXPECT_EQ(c.mla.kv_rank % 32, 0);
      EXPECT_EQ(c.delta.key_dim % 16, 0);
      EXPECT_EQ(c.delta.value_dim % 32, 0);
      EXPECT_GE(c.moe.experts, c.moe.top_k);
    }
  EXPECT_GT(accepted, 400);
  EXPECT_GT(refused, 400);
}

}  // namespace
}  // namespace kt
