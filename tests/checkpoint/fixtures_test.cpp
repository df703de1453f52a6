#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "runtime/checkpoint/safetensors.h"

// The tiny checkpoints beside the checkout: every tensor of the language model is there with the published shape.

namespace kt {
namespace {

struct Expected {
  const char* suffix;  // after "{layers}.N."
  std::vector<int64_t> shape;
};

class Fixture : public testing::Test {
 protected:
  void open(const std::string& name) {
    const char* variable = std::getenv("KTMPI_SHARED");
    const std::filesystem::path shared = variable ? variable : KTMPI_SOURCE_DIR "/../shared";
    const auto folder = shared / "fixtures/models" / name;
    if (!std::filesystem::exists(folder)) GTEST_SKIP() << folder << " is not there; set KTMPI_SHARED";
    checkpoint_ = open_checkpoint(folder);
  }
  void expect(const std::string& name, const std::vector<int64_t>& shape) {
    std::vector<std::byte> scratch;
    EXPECT_NO_THROW(checkpoint_->all_rows(name, shape, scratch)) << name;
    ++seen_;
  }
  void expect_layer(const std::string& prefix, const std::vector<Expected>& tensors) {
    for (const auto& [suffix, shape] : tensors) expect(prefix + suffix, shape);
  }
  void expect_per_expert(const std::string& prefix) {
    for (int e = 0; e < 16; ++e) {
      const std::string expert = prefix + "mlp.experts." + std::to_string(e);
      expect(expert + ".gate_proj.weight", {64, 256});
      expect(expert + ".up_proj.weight", {64, 256});
      expect(expert + ".down_proj.weight", {256, 64});
    }
  }
  // All tensors were expected ones, but for those that are not part of the language model.
  void expect_no_others(const std::vector<std::string>& skipped) {
    size_t others = 0;
    for (const auto name : checkpoint_->names()) {
      for (const auto& prefix : skipped) others += name.starts_with(prefix);
    }
    EXPECT_EQ(checkpoint_->names().size(), seen_ + others);
  }

  std::unique_ptr<Checkpoint> checkpoint_;
  size_t seen_ = 0;
};

const std::vector<Expected> kNorms = {{"input_layernorm.weight", {256}}, {"post_attention_layernorm.weight", {256}}};
const std::vector<Expected> kShared = {{"mlp.gate.weight", {16, 256}},
                                       {"mlp.shared_expert.gate_proj.weight", {64, 256}},
                                       {"mlp.shared_expert.up_proj.weight", {64, 256}},
                                       {"mlp.shared_expert.down_proj.weight", {256, 64}},
                                       {"mlp.shared_expert_gate.weight", {1, 256}}};
const std::vector<Expected> kGatedAttention = {
    {"self_attn.q_proj.weight", {512, 256}}, {"self_attn.k_proj.weight", {128, 256}},
    {"self_attn.v_proj.weight", {128, 256}}, {"self_attn.o_proj.weight", {256, 256}},
    {"self_attn.q_norm.weight", {64}},       {"self_attn.k_norm.weight", {64}}};
const std::vector<Expected> kDelta = {{"linear_attn.A_log", {4}},
                                      {"linear_attn.dt_bias", {4}},
                                      {"linear_attn.conv1d.weight", {512, 1, 4}},
                                      {"linear_attn.norm.weight", {64}},
                                      {"linear_attn.out_proj.weight", {256, 256}}};

TEST_F(Fixture, Qwen3MoeIsComplete) {
  open("qwen3_moe-bf16");
  if (IsSkipped()) return;

  expect("model.embed_tokens.weight", {640, 256});
  expect("lm_head.weight", {640, 256});
  expect("model.norm.weight", {256});
  for (const std::string layer : {"0.", "1.", "2."}) {
    const std::string prefix = "model.layers." + layer;
    expect_layer(prefix, kNorms);
    expect_layer(prefix, {{"self_attn.q_proj.weight", {384, 256}},
                          {"self_attn.k_proj.weight", {128, 256}},
                          {"self_attn.v_proj.weight", {128, 256}},
                          {"self_attn.o_proj.weight", {256, 384}},
                          {"self_attn.q_norm.weight", {64}},
                          {"self_attn.k_norm.weight", {64}},
                          {"mlp.gate.weight", {16, 256}}});
    expect_per_expert(prefix);
  }
  expect_no_others({});
}

TEST_F(Fixture, Qwen3NextIsComplete) {
  open("qwen3_next-bf16");
  if (IsSkipped()) return;

  expect("model.embed_tokens.weight", {640, 256});
  expect("lm_head.weight", {640, 256});
  expect("model.norm.weight", {256});
  for (int n = 0; n < 4; ++n) {
    const std::string prefix = "model.layers." + std::to_string(n) + ".";
    expect_layer(prefix, kNorms);
    expect_layer(prefix, kShared);
    expect_per_expert(prefix);
    if (n == 3) {
      expect_layer(prefix, kGatedAttention);
    } else {
      expect_layer(prefix, kDelta);
      expect_layer(prefix,
                   {{"linear_attn.in_proj_qkvz.weight", {768, 256}}, {"linear_attn.in_proj_ba.weight", {8, 256}}});
    }
  }
  expect_no_others({"mtp."});
}

TEST_F(Fixture, Qwen35MoeIsComplete) {
  open("qwen3_5_moe-bf16");
  if (IsSkipped()) return;

  expect("model.language_model.embed_tokens.weight", {640, 256});
  expect("lm_head.weight", {640, 256});
  expect("model.language_model.norm.weight", {256});
  for (int n = 0; n < 4; ++n) {
    const std::string prefix = "model.language_model.layers." + std::to_string(n) + ".";
    expect_layer(prefix, kNorms);
    expect_layer(prefix, kShared);
    expect_layer(prefix, {{"mlp.experts.gate_up_proj", {16, 128, 256}}, {"mlp.experts.down_proj", {16, 256, 64}}});
    if (n == 3) {
      expect_layer(prefix, kGatedAttention);
    } else {
      expect_layer(prefix, kDelta);
      expect_layer(prefix, {{"linear_attn.in_proj_qkv.weight", {512, 256}},
                            {"linear_attn.in_proj_z.weight", {256, 256}},
                            {"linear_attn.in_proj_b.weight", {4, 256}},
                            {"linear_attn.in_proj_a.weight", {4, 256}}});
    }
  }
  expect_no_others({"mtp.", "model.visual."});
  EXPECT_EQ(checkpoint_->find("model.language_model.layers.0.linear_attn.A_log")->type, StoredType::f32);
  EXPECT_EQ(checkpoint_->find("model.language_model.layers.0.linear_attn.dt_bias")->type, StoredType::bf16);
}

TEST_F(Fixture, QuantisedCheckpointsOpenToo) {
  open("deepseek_v32-fp8");
  if (IsSkipped()) return;
  expect("model.layers.0.mlp.down_proj.weight", {256, 512});
  EXPECT_EQ(checkpoint_->find("model.layers.0.mlp.down_proj.weight")->type, StoredType::f8_e4m3);

  open("kimi_k2-int4");
  EXPECT_EQ(checkpoint_->find("model.layers.1.mlp.experts.0.down_proj.weight_packed")->type, StoredType::i32);
}

}  // namespace
}  // namespace kt
