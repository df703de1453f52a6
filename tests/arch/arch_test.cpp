#include "runtime/arch/arch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "runtime/base/error.h"
#include "tests/refusal_of.h"

namespace kt {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

// The published numbers of the releases, in the form of their config files.
json qwen3_30b() {
  return json::parse(R"({"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe",
    "attention_bias": false, "decoder_sparse_step": 1, "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu",
    "hidden_size": 2048, "intermediate_size": 6144, "max_position_embeddings": 40960, "max_window_layers": 48,
    "mlp_only_layers": [], "moe_intermediate_size": 768, "norm_topk_prob": true, "num_attention_heads": 32,
    "num_experts": 128, "num_experts_per_tok": 8, "num_hidden_layers": 48, "num_key_value_heads": 4,
    "rms_norm_eps": 1e-06, "rope_scaling": null, "rope_theta": 1000000.0, "sliding_window": null,
    "tie_word_embeddings": false, "torch_dtype": "bfloat16", "use_sliding_window": false, "vocab_size": 151936})");
}

json qwen3_next_80b() {
  return json::parse(R"({"architectures": ["Qwen3NextForCausalLM"], "model_type": "qwen3_next",
    "attention_bias": false, "decoder_sparse_step": 1, "eos_token_id": 151645, "full_attention_interval": 4,
    "head_dim": 256, "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 5120,
    "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_num_key_heads": 16, "linear_num_value_heads": 32,
    "linear_value_head_dim": 128, "max_position_embeddings": 262144, "mlp_only_layers": [],
    "moe_intermediate_size": 512, "norm_topk_prob": true, "num_attention_heads": 16, "num_experts": 512,
    "num_experts_per_tok": 10, "num_hidden_layers": 48, "num_key_value_heads": 2, "partial_rotary_factor": 0.25,
    "rms_norm_eps": 1e-06, "rope_scaling": null, "rope_theta": 10000000, "shared_expert_intermediate_size": 512,
    "tie_word_embeddings": false, "use_sliding_window": false, "vocab_size": 151936})");
}

json qwen3_5_397b() {
  json text = json::parse(R"({"attn_output_gate": true, "dtype": "bfloat16", "eos_token_id": 248044,
    "full_attention_interval": 4, "head_dim": 256, "hidden_act": "silu", "hidden_size": 4096,
    "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_num_key_heads": 16, "linear_num_value_heads": 64,
    "linear_value_head_dim": 128, "max_position_embeddings": 262144, "mlp_only_layers": [],
    "model_type": "qwen3_5_moe_text", "moe_intermediate_size": 1024, "num_attention_heads": 32, "num_experts": 512,
    "num_experts_per_tok": 10, "num_hidden_layers": 60, "num_key_value_heads": 2, "rms_norm_eps": 1e-06,
    "rope_parameters": {"mrope_interleaved": true, "mrope_section": [11, 11, 10], "partial_rotary_factor": 0.25,
      "rope_theta": 10000000, "rope_type": "default"},
    "shared_expert_intermediate_size": 1024, "vocab_size": 248320})");
  for (int n = 0; n < 60; ++n) text["layer_types"].push_back(n % 4 == 3 ? "full_attention" : "linear_attention");
  return {{"architectures", {"Qwen3_5MoeForConditionalGeneration"}},
          {"model_type", "qwen3_5_moe"},
          {"text_config", text},
          {"vision_config", {{"hidden_act", "gelu_pytorch_tanh"}}},
          {"tie_word_embeddings", false}};
}

json qwen15_moe() {
  return json::parse(R"({"architectures": ["Qwen2MoeForCausalLM"], "model_type": "qwen2_moe", "eos_token_id": 151643,
    "decoder_sparse_step": 1, "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 5632,
    "max_position_embeddings": 8192, "moe_intermediate_size": 1408, "norm_topk_prob": false,
    "num_attention_heads": 16, "num_experts": 60, "num_experts_per_tok": 4, "num_hidden_layers": 24,
    "num_key_value_heads": 16, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
    "shared_expert_intermediate_size": 5632, "sliding_window": 32768, "use_sliding_window": false,
    "tie_word_embeddings": false, "vocab_size": 151936})");
}

ModelConfig parse(const json& config) { return parse_model(config); }

std::string refusal(const json& config) {
  return refusal_of([&] { parse(config); }, kExitModel);
}

// The refusal when `key` of a good config is replaced; a null value removes it.
std::string refusal_with(json config, const std::string& key, const json& value) {
  if (value.is_null()) {
    config.erase(key);
  } else {
    config[key] = value;
  }
  return refusal(config);
}

int count(const ModelConfig& config, Mixer mixer) {
  int n = 0;
  for (const LayerSpec& layer : config.layers) n += layer.mixer == mixer;
  return n;
}

TEST(Arch, ReadsQwen3Moe) {
  const ModelConfig c = parse(qwen3_30b());

  EXPECT_EQ(c.hidden, 2048);
  EXPECT_EQ(c.vocab, 151936);
  EXPECT_EQ(c.max_context, 40960);
  EXPECT_EQ(c.layers.size(), 48u);
  EXPECT_EQ(count(c, Mixer::attention), 48);
  EXPECT_EQ(c.attention.heads, 32);
  EXPECT_EQ(c.attention.kv_heads, 4);
  EXPECT_EQ(c.attention.head_dim, 128);
  EXPECT_EQ(c.attention.rope.theta, 1e6);
  EXPECT_EQ(c.attention.rope.dims, 128);
  EXPECT_TRUE(c.attention.qk_norm);
  EXPECT_FALSE(c.attention.bias);
  EXPECT_FALSE(c.attention.gated);
  EXPECT_FALSE(c.norm_plus_one);
  EXPECT_FALSE(c.tied_head);
  EXPECT_FLOAT_EQ(c.norm_eps, 1e-6f);
  EXPECT_EQ(c.moe.experts, 128);
  EXPECT_EQ(c.moe.top_k, 8);
  EXPECT_EQ(c.moe.inter, 768);
  EXPECT_EQ(c.moe.shared_inter, 0);
  EXPECT_TRUE(c.moe.norm_topk);
  EXPECT_THAT(c.eos, ElementsAre(151645));
}

TEST(Arch, ReadsQwen3Next) {
  const ModelConfig c = parse(qwen3_next_80b());

  EXPECT_EQ(c.attention.head_dim, 256);
  EXPECT_EQ(c.attention.rope.dims, 64);
  EXPECT_EQ(c.attention.rope.theta, 1e7);
  EXPECT_TRUE(c.attention.gated);
  EXPECT_TRUE(c.attention.qk_norm);
  EXPECT_TRUE(c.norm_plus_one);
  EXPECT_EQ(count(c, Mixer::attention), 12);
  EXPECT_EQ(c.layers[0].mixer, Mixer::delta_net);
  EXPECT_EQ(c.layers[3].mixer, Mixer::attention);
  EXPECT_EQ(c.layers[47].mixer, Mixer::attention);
  EXPECT_EQ(c.delta.key_heads, 16);
  EXPECT_EQ(c.delta.value_heads, 32);
  EXPECT_EQ(c.delta.key_dim, 128);
  EXPECT_EQ(c.delta.value_dim, 128);
  EXPECT_EQ(c.delta.conv_kernel, 4);
  EXPECT_EQ(c.delta.conv_channels(), 8192);
  EXPECT_EQ(c.moe.shared_inter, 512);
  EXPECT_TRUE(c.moe.shared_gate);
  EXPECT_TRUE(c.moe.norm_topk);
  EXPECT_EQ(find_arch(qwen3_next_80b()).skipped[0], "mtp.");
}

TEST(Arch, ReadsQwen35MoeFromItsTextConfig) {
  const ModelConfig c = parse(qwen3_5_397b());
  const Arch& arch = find_arch(qwen3_5_397b());

  EXPECT_EQ(arch.prefix, "model.language_model.");
  EXPECT_EQ(arch.experts, ExpertLayout::fused_gate_up);
  EXPECT_EQ(arch.delta, DeltaLayout::separate);
  EXPECT_EQ(c.hidden, 4096);
  EXPECT_EQ(c.layers.size(), 60u);
  EXPECT_EQ(count(c, Mixer::attention), 15);
  EXPECT_EQ(c.attention.rope.dims, 64);
  EXPECT_EQ(c.attention.rope.theta, 1e7);
  EXPECT_EQ(c.delta.value_heads, 64);
  EXPECT_EQ(c.moe.inter, 1024);
  EXPECT_TRUE(c.moe.norm_topk);
  EXPECT_TRUE(c.norm_plus_one);
  EXPECT_THAT(c.eos, ElementsAre(248044));
}

TEST(Arch, ReadsQwen2Moe) {
  const ModelConfig c = parse(qwen15_moe());

  EXPECT_TRUE(c.attention.bias);
  EXPECT_FALSE(c.attention.qk_norm);
  EXPECT_EQ(c.attention.head_dim, 128);
  EXPECT_EQ(c.attention.rope.dims, 128);
  EXPECT_EQ(c.moe.shared_inter, 5632);
  EXPECT_TRUE(c.moe.shared_gate);
  EXPECT_FALSE(c.moe.norm_topk);
}

TEST(Arch, IsFoundByTheTypeWhenTheNameIsUnknown) {
  EXPECT_EQ(find_arch(json{{"model_type", "qwen3_next"}}).hf_name, "Qwen3NextForCausalLM");
  EXPECT_EQ(find_arch(json{{"architectures", {"MyFineTune"}}, {"model_type", "qwen3_moe"}}).hf_name,
            "Qwen3MoeForCausalLM");
  EXPECT_THAT(refusal(json{{"architectures", {"LlamaForCausalLM"}}, {"model_type", "llama"}}),
              AllOf(HasSubstr("\"LlamaForCausalLM\""), HasSubstr("Qwen3MoeForCausalLM")));
  EXPECT_THAT(refusal(json::object()), HasSubstr("not supported"));
  EXPECT_THAT(refusal(json::array()), HasSubstr("expected a JSON object, found array"));
  EXPECT_THAT(refusal(json{{"architectures", "Qwen3MoeForCausalLM"}}), HasSubstr("architectures: expected a list"));
}

TEST(Arch, HonoursDenseLayers) {
  json config = qwen3_30b();
  config["num_hidden_layers"] = 6;
  config["decoder_sparse_step"] = 2;
  config["mlp_only_layers"] = {1};

  const ModelConfig c = parse(config);

  std::string ffns;
  for (const LayerSpec& layer : c.layers) ffns += layer.ffn == Ffn::dense ? 'd' : 'm';
  EXPECT_EQ(ffns, "dddmdm");
  EXPECT_EQ(c.dense_inter, 6144);
  EXPECT_THAT(refusal_with(config, "intermediate_size", nullptr), HasSubstr("intermediate_size is missing"));
  EXPECT_THAT(refusal_with(config, "mlp_only_layers", {6}), HasSubstr("expected an integer in [0, 5], found 6"));
}

TEST(Arch, TakesRopeSettingsFromEitherPlace) {
  json config = qwen3_30b();
  config.erase("rope_theta");
  config["rope_parameters"] = {{"rope_theta", 5e6}, {"rope_type", "default"}};
  EXPECT_EQ(parse(config).attention.rope.theta, 5e6);

  config = qwen3_5_397b();
  config["text_config"]["rope_parameters"].erase("partial_rotary_factor");
  config["text_config"]["partial_rotary_factor"] = 0.5;
  EXPECT_EQ(parse(config).attention.rope.dims, 128);
}

// Of every family, what transformers 5 writes instead of what its release has.
TEST(Arch, ReadsWhatTransformers5Saves) {
  json config = qwen3_30b();
  const ModelConfig release = parse(config);
  config["num_local_experts"] = config["num_experts"];
  EXPECT_EQ(parse(config).moe.experts, 128);  // both, when they agree
  config.erase("num_experts");
  config.erase("rope_theta");
  config.erase("rope_scaling");
  config["rope_parameters"] = {{"rope_theta", 1e6}, {"rope_type", "default"}};
  config["dtype"] = "bfloat16";
  config["pad_token_id"] = nullptr;
  EXPECT_EQ(parse(config).moe.experts, release.moe.experts);
  EXPECT_EQ(parse(config).attention.rope.theta, release.attention.rope.theta);
  config["num_experts"] = 64;
  EXPECT_THAT(refusal(config), HasSubstr("num_local_experts: is 128, but num_experts is 64"));

  config = qwen15_moe();
  config["sliding_window"] = 0;
  config["layer_types"] = std::vector<std::string>(24, "full_attention");
  EXPECT_EQ(parse(config).moe.experts, 60);

  config = qwen3_next_80b();
  config["layer_types"] = json::array();
  for (int n = 0; n < 48; ++n) config["layer_types"].push_back(n % 4 == 3 ? "full_attention" : "linear_attention");
  for (const char* key : {"full_attention_interval", "partial_rotary_factor", "rope_theta", "rope_scaling"})
    config.erase(key);
  config["rope_parameters"] = {{"partial_rotary_factor", 0.25}, {"rope_theta", 1e7}, {"rope_type", "default"}};
  EXPECT_EQ(parse(config).attention.rope.dims, 64);
  EXPECT_EQ(parse(config).attention.rope.theta, 1e7);
  EXPECT_EQ(count(parse(config), Mixer::attention), 12);

  config = qwen3_5_397b();
  config["vision_config"]["rope_parameters"] = {{"rope_type", "axial"}};
  EXPECT_EQ(parse(config).layers.size(), 60u);
}

TEST(Arch, ReadsQwen35MoeSavedAsATextModel) {
  json config = qwen3_5_397b()["text_config"];
  config["architectures"] = {"Qwen3_5MoeForCausalLM"};
  config["tie_word_embeddings"] = false;

  EXPECT_EQ(find_arch(config).prefix, "model.");
  EXPECT_EQ(find_arch(config).delta, DeltaLayout::separate);
  EXPECT_EQ(parse(config).moe.inter, 1024);
  EXPECT_EQ(parse(config).attention.rope.dims, 64);
  config.erase("architectures");
  EXPECT_EQ(find_arch(config).hf_name, "Qwen3_5MoeForCausalLM");
}

TEST(Arch, TakesLayerTypesBeforeTheInterval) {
  json config = qwen3_next_80b();
  config["num_hidden_layers"] = 3;
  config["layer_types"] = {"full_attention", "linear_attention", "linear_attention"};
  EXPECT_EQ(parse(config).layers[0].mixer, Mixer::attention);

  EXPECT_THAT(refusal_with(config, "num_hidden_layers", 4), HasSubstr("layer_types: expected num_hidden_layers = 4"));
  config["layer_types"][1] = "sliding_attention";
  EXPECT_THAT(refusal(config), HasSubstr("layer_types: \"sliding_attention\" (layer 1) is not supported"));
}

TEST(Arch, TakesEndTokensAsNumberOrList) {
  json config = qwen3_30b();
  config["eos_token_id"] = {7, 9};
  EXPECT_THAT(parse(config).eos, ElementsAre(7, 9));
  config["eos_token_id"] = nullptr;
  EXPECT_TRUE(parse(config).eos.empty());
  EXPECT_THAT(refusal_with(config, "eos_token_id", "7"), HasSubstr("eos_token_id: expected an integer"));
  EXPECT_THAT(refusal_with(config, "eos_token_id", {-1}), HasSubstr("found -1"));
}

TEST(Arch, NamesTheKeyThatIsMissingOrOfAWrongType) {
  for (const char* key :
       {"hidden_size", "vocab_size", "num_hidden_layers", "num_attention_heads", "num_experts", "num_experts_per_tok",
        "moe_intermediate_size", "max_position_embeddings", "linear_num_key_heads", "linear_num_value_heads",
        "linear_key_head_dim", "linear_value_head_dim", "linear_conv_kernel_dim", "shared_expert_intermediate_size"}) {
    const auto names_it = HasSubstr(std::string("config.json: ") + key);
    EXPECT_THAT(refusal_with(qwen3_next_80b(), key, nullptr), AllOf(names_it, HasSubstr("is missing"))) << key;
    EXPECT_THAT(refusal_with(qwen3_next_80b(), key, "2048"), AllOf(names_it, HasSubstr("found \"2048\""))) << key;
    EXPECT_THAT(refusal_with(qwen3_next_80b(), key, -4), AllOf(names_it, HasSubstr("found -4"))) << key;
    EXPECT_THAT(refusal_with(qwen3_next_80b(), key, 2.5), AllOf(names_it, HasSubstr("found 2.5"))) << key;
    EXPECT_THAT(refusal_with(qwen3_next_80b(), key, UINT64_MAX), AllOf(names_it, HasSubstr("18446744073709551615")));
  }
  EXPECT_THAT(refusal_with(qwen3_30b(), "norm_topk_prob", 1), HasSubstr("norm_topk_prob: expected true or false"));
  EXPECT_THAT(refusal_with(qwen3_30b(), "rms_norm_eps", "1e-6"), HasSubstr("rms_norm_eps: expected a number"));
  EXPECT_THAT(refusal_with(qwen3_30b(), "rope_theta", -1.0), HasSubstr("rope_theta: expected a number"));
  EXPECT_THAT(refusal_with(qwen3_5_397b(), "text_config", nullptr), HasSubstr("config.json: text_config is missing"));
  json nested = qwen3_5_397b();
  nested["text_config"]["num_experts"] = "512";
  EXPECT_THAT(refusal(nested), HasSubstr("config.json: text_config.num_experts: expected an integer"));
}

TEST(Arch, RefusesNumbersThatDoNotFitTogether) {
  EXPECT_THAT(refusal_with(qwen3_30b(), "num_key_value_heads", 5), HasSubstr("divisor of num_attention_heads = 32"));
  EXPECT_THAT(refusal_with(qwen3_30b(), "num_experts_per_tok", 129), HasSubstr("at most num_experts = 128, found 129"));
  EXPECT_THAT(refusal_with(qwen3_30b(), "head_dim", 100), HasSubstr("head_dim: expected a multiple of 32, found 100"));
  EXPECT_THAT(refusal_with(qwen3_30b(), "hidden_size", 2047), HasSubstr("hidden_size: expected an even number"));
  EXPECT_THAT(refusal_with(qwen15_moe(), "num_attention_heads", 48), HasSubstr("as there is no head_dim, found 48"));
  EXPECT_THAT(refusal_with(qwen15_moe(), "hidden_size", 160), HasSubstr("expected a multiple of 32, found 10"));
  EXPECT_THAT(refusal_with(qwen3_next_80b(), "linear_num_value_heads", 24), HasSubstr("linear_num_key_heads = 16"));
  EXPECT_THAT(refusal_with(qwen3_next_80b(), "partial_rotary_factor", 0.26), HasSubstr("partial_rotary_factor"));
  EXPECT_THAT(refusal_with(qwen3_next_80b(), "partial_rotary_factor", 0.0), HasSubstr("partial_rotary_factor"));
}

TEST(Arch, RefusesByNameWhatItCannotHonour) {
  EXPECT_THAT(refusal_with(qwen3_30b(), "hidden_act", "gelu"), HasSubstr("hidden_act: \"gelu\" is not supported"));
  EXPECT_THAT(refusal_with(qwen3_30b(), "attention_bias", true), HasSubstr("attention_bias"));
  EXPECT_THAT(refusal_with(qwen3_30b(), "use_sliding_window", true), HasSubstr("use_sliding_window"));
  EXPECT_THAT(refusal_with(qwen3_30b(), "quantization_config", {{"quant_method", "fp8"}}),
              HasSubstr("quantization_config"));
  EXPECT_THAT(refusal_with(qwen3_5_397b(), "quantization_config", {{"quant_method", "fp8"}}),
              HasSubstr("quantization_config"));
  EXPECT_THAT(refusal_with(qwen3_30b(), "rope_scaling", {{"type", "yarn"}, {"factor", 4.0}}),
              HasSubstr("rope_scaling: type \"yarn\" is not supported"));
  EXPECT_THAT(refusal_with(qwen3_30b(), "rope_parameters", {{"rope_type", "yarn"}, {"rope_theta", 1e6}}),
              HasSubstr("rope_parameters: rope_type \"yarn\" is not supported"));
  json config = qwen3_5_397b();
  config["text_config"]["attn_output_gate"] = false;
  EXPECT_THAT(refusal(config), HasSubstr("attn_output_gate"));
  config = qwen3_5_397b();
  config["text_config"]["mlp_only_layers"] = {0};
  EXPECT_THAT(refusal(config), HasSubstr("mlp_only_layers"));
}

// Every key of every config is replaced by values it should not have: taken or refused, never anything else.
TEST(Arch, SurvivesOddValuesEverywhere) {
  const std::vector<json> odd = {nullptr,
                                 true,
                                 0,
                                 -1,
                                 UINT64_MAX,
                                 INT64_MIN,
                                 1e300,
                                 -0.0,
                                 "",
                                 "x",
                                 json::array(),
                                 json::object(),
                                 {nullptr},
                                 {-1, "x"},
                                 {{"type", 3}},
                                 {{"rope_theta", "x"}}};
  int refused = 0;
  for (const json& good : {qwen15_moe(), qwen3_30b(), qwen3_next_80b(), qwen3_5_397b()}) {
    const json leaves = good.flatten();
    for (const auto& [pointer, leaf] : leaves.items()) {
      for (const json& value : odd) {
        json config = good;
        config[json::json_pointer(pointer)] = value;
        refused += refusal(config) != "accepted";
      }
    }
  }
  EXPECT_GT(refused, 1000);
}

}  // namespace
}  // namespace kt
