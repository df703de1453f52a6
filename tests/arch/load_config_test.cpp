#include "runtime/arch/load_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/base/error.h"
#include "tests/refusal_of.h"
#include "tests/temp_folder.h"

namespace kt {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr const char* kTiny = R"({"architectures": ["Qwen3MoeForCausalLM"], "eos_token_id": 3, "head_dim": 32,
  "hidden_size": 64, "max_position_embeddings": 128, "moe_intermediate_size": 32, "num_attention_heads": 2,
  "num_experts": 4, "num_experts_per_tok": 2, "num_hidden_layers": 1, "vocab_size": 100})";

std::string refusal(const std::filesystem::path& folder) {
  return refusal_of([&] { load_model_config(folder); }, kExitModel);
}

TEST(LoadConfig, JoinsBothFiles) {
  const TempFolder folder;
  folder.write("config.json", kTiny);
  folder.write("generation_config.json", R"({"eos_token_id": [5, 3], "temperature": 0.7, "top_k": 0, "top_p": 0.8})");

  const LoadedConfig loaded = load_model_config(folder.path());

  EXPECT_EQ(loaded.config.architecture, "Qwen3MoeForCausalLM");
  EXPECT_EQ(loaded.arch.hf_name, "Qwen3MoeForCausalLM");
  EXPECT_EQ(loaded.raw["vocab_size"], 100);
  EXPECT_THAT(loaded.config.eos, ElementsAre(3, 5));
  EXPECT_FLOAT_EQ(loaded.sampling.temperature.value(), 0.7f);
  EXPECT_FLOAT_EQ(loaded.sampling.top_p.value(), 0.8f);
  EXPECT_EQ(loaded.sampling.top_k, -1);
  EXPECT_EQ(loaded.sampling.min_p, std::nullopt);
}

TEST(LoadConfig, NeedsNoGenerationConfig) {
  const TempFolder folder;
  folder.write("config.json", kTiny);
  EXPECT_THAT(load_model_config(folder.path()).config.eos, ElementsAre(3));
  EXPECT_EQ(load_model_config(folder.path()).sampling.temperature, std::nullopt);
}

TEST(LoadConfig, SaysWhichFileIsWrongAndWhere) {
  const TempFolder folder;
  EXPECT_THAT(refusal(folder.path() / "absent"), HasSubstr("there is no such folder"));
  EXPECT_THAT(refusal(folder.path()), HasSubstr("config.json is missing"));
  folder.write("config.json", "");
  EXPECT_THAT(refusal(folder.path()), AllOf(HasSubstr("/config.json: not valid JSON"), HasSubstr("line 1, column 1")));
  folder.write("config.json", "{\n  \"a\": 1,\n}");
  EXPECT_THAT(refusal(folder.path()), HasSubstr("line 3, column 1"));
  folder.write("config.json", "{\"a\":" + std::string(100000, '['));
  EXPECT_THAT(refusal(folder.path()), HasSubstr("nested deeper"));
  folder.write("config.json", R"({"architectures": ["Qwen3MoeForCausalLM"]})");
  EXPECT_THAT(refusal(folder.path()), HasSubstr((folder.path() / "config.json: hidden_size is missing").string()));
  folder.write("config.json", kTiny);
  folder.write("generation_config.json", R"({"top_p": 1.5})");
  EXPECT_THAT(refusal(folder.path()), HasSubstr("/generation_config.json: top_p: expected a number in [0, 1]"));
  folder.write("generation_config.json", "null");
  EXPECT_THAT(refusal(folder.path()), HasSubstr("generation_config.json: expected a JSON object"));
  std::filesystem::remove(folder.path() / "config.json");
  std::filesystem::create_directory(folder.path() / "config.json");
  EXPECT_NE(refusal(folder.path()), "accepted");
}

TEST(LoadConfig, ReadsTheTinyCheckpointsBesideTheCheckout) {
  const char* variable = std::getenv("KTMPI_SHARED");
  const std::filesystem::path models =
      std::filesystem::path(variable ? variable : KTMPI_SOURCE_DIR "/../shared") / "fixtures/models";
  if (!std::filesystem::exists(models)) GTEST_SKIP() << models << " is not there; set KTMPI_SHARED";

  const ModelConfig moe = load_model_config(models / "qwen3_moe-bf16").config;
  EXPECT_EQ(moe.layers.size(), 3u);
  EXPECT_EQ(moe.attention.heads, 6);
  EXPECT_EQ(moe.attention.head_dim, 64);
  EXPECT_THAT(moe.eos, ElementsAre(602, 600));

  const ModelConfig next = load_model_config(models / "qwen3_next-bf16").config;
  EXPECT_EQ(next.layers[3].mixer, Mixer::attention);
  EXPECT_EQ(next.attention.rope.dims, 16);
  EXPECT_EQ(next.delta.conv_channels(), 512);

  const LoadedConfig qwen35 = load_model_config(models / "qwen3_5_moe-bf16");
  EXPECT_EQ(qwen35.config.moe.shared_inter, 64);
  EXPECT_EQ(qwen35.config.attention.rope.theta, 1e7);
  EXPECT_THAT(qwen35.config.eos, ElementsAre(590, 592));

  EXPECT_EQ(load_model_config(models / "qwen3_next-fp8").config.quant.stored, Stored::fp8_block);

  const ModelConfig deepseek = load_model_config(models / "deepseek_v32-fp8").config;
  EXPECT_EQ(deepseek.quant.stored, Stored::fp8_block);
  EXPECT_EQ(deepseek.mla.indexer->top_k, 16);
  EXPECT_EQ(deepseek.layers.size(), 4u);

  const ModelConfig kimi = load_model_config(models / "kimi_k2-int4").config;
  EXPECT_EQ(kimi.quant.stored, Stored::int4_group);
  EXPECT_FALSE(kimi.mla.indexer);
  EXPECT_EQ(kimi.mla.cached_dim(), 160);
}

}  // namespace
}  // namespace kt
