#include "runtime/arch/qwen.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "runtime/arch/limits.h"
#include "runtime/arch/skeleton.h"

namespace kt::qwen {
namespace {

// Theta and the kind of one of the two places for rope settings.
void check_rope_type(const ConfigReader& json, const char* key) {
  if (!json.has(key)) return;
  const ConfigReader rope = json.object(key);
  for (const char* name : {"rope_type", "type"}) {
    const std::string type = rope.text_or(name, "default");
    if (type != "default") {
      json.refuse(key, fmt::format("{} \"{}\" is not supported for this architecture, only default is", name, type));
    }
  }
}

}  // namespace

void read_skeleton(const ConfigReader& json, ModelConfig& config) {
  if (json.boolean_or("use_sliding_window", false))
    json.refuse("use_sliding_window", "sliding window attention is not supported");
  kt::read_skeleton(json, config);
}

void read_attention(const ConfigReader& json, ModelConfig& config) {
  AttentionSpec& attention = config.attention;
  attention.heads = json.integer("num_attention_heads", 1, kMaxHeads);
  attention.kv_heads = json.integer_or("num_key_value_heads", attention.heads, 1, kMaxHeads);
  if (!json.has("head_dim") && config.hidden % attention.heads != 0) {
    json.refuse("num_attention_heads",
                fmt::format("expected a divisor of hidden_size = {} as there is no head_dim, found {}", config.hidden,
                            attention.heads));
  }
  attention.head_dim = json.integer_or("head_dim", config.hidden / attention.heads, 1, kMaxHeadDim);
}

void read_rope(const ConfigReader& json, double default_theta, double default_share, ModelConfig& config) {
  check_rope_type(json, "rope_scaling");
  check_rope_type(json, "rope_parameters");
  // transformers 5 keeps both numbers in rope_parameters, transformers 4 beside it.
  const auto number = [&](const char* key, double fallback, double low, double high) {
    const double outside = json.number_or(key, fallback, low, high);
    return json.has("rope_parameters") ? json.object("rope_parameters").number_or(key, outside, low, high) : outside;
  };
  RopeSpec& rope = config.attention.rope;
  rope.theta = number("rope_theta", default_theta, 1.0, 1e15);
  const double dims = config.attention.head_dim * number("partial_rotary_factor", default_share, 0.0, 1.0);
  rope.dims = static_cast<int>(std::lround(dims));
  if (rope.dims < 2 || rope.dims % 2 != 0 || std::abs(dims - rope.dims) > 1e-6) {
    json.refuse("partial_rotary_factor",
                fmt::format("expected an even number of rotated dims of head_dim = {}, found {}",
                            config.attention.head_dim, dims));
  }
}

void read_experts(const ConfigReader& json, ModelConfig& config) {
  MoeSpec& moe = config.moe;
  moe.experts = json.integer(json.one_of({"num_experts", "num_local_experts"}), 1, kMaxExperts);
  moe.top_k = json.integer("num_experts_per_tok", 1, kMaxExperts);
  moe.inter = json.integer("moe_intermediate_size", 1, kMaxWidth);
}

void read_shared_expert(const ConfigReader& json, ModelConfig& config) {
  config.moe.shared_inter = json.integer("shared_expert_intermediate_size", 0, kMaxWidth);
  config.moe.shared_gate = config.moe.shared_inter > 0;
}

void read_dense_layers(const ConfigReader& json, ModelConfig& config) {
  const int count = static_cast<int>(config.layers.size());
  const int step = json.integer_or("decoder_sparse_step", 1, 1, kMaxLayers);
  const std::vector<int> dense = json.integers("mlp_only_layers", 0, count - 1);
  bool any = false;
  for (int n = 0; n < count; ++n) {
    if ((n + 1) % step == 0 && std::find(dense.begin(), dense.end(), n) == dense.end()) continue;
    config.layers[static_cast<size_t>(n)].ffn = Ffn::dense;
    any = true;
  }
  if (any) config.dense_inter = json.integer("intermediate_size", 1, kMaxWidth);
}

void read_hybrid_layers(const ConfigReader& json, ModelConfig& config) {
  const size_t count = config.layers.size();
  if (!json.has("layer_types")) {
    const auto interval = static_cast<size_t>(json.integer_or("full_attention_interval", 4, 1, kMaxLayers));
    for (size_t n = 0; n < count; ++n) {
      config.layers[n].mixer = (n + 1) % interval == 0 ? Mixer::attention : Mixer::delta_net;
    }
    return;
  }
  const std::vector<std::string> types = json.texts("layer_types");
  if (types.size() != count) {
    json.refuse("layer_types", fmt::format("expected num_hidden_layers = {} entries, found {}", count, types.size()));
  }
  for (size_t n = 0; n < count; ++n) {
    if (types[n] == "full_attention") {
      config.layers[n].mixer = Mixer::attention;
    } else if (types[n] == "linear_attention") {
      config.layers[n].mixer = Mixer::delta_net;
    } else {
      json.refuse("layer_types", fmt::format("\"{}\" (layer {}) is not supported, only full_attention and "
                                             "linear_attention are",
                                             types[n], n));
    }
  }
}

void read_delta(const ConfigReader& json, ModelConfig& config) {
  DeltaSpec& delta = config.delta;
  delta.key_heads = json.integer("linear_num_key_heads", 1, kMaxHeads);
  delta.value_heads = json.integer("linear_num_value_heads", 1, kMaxHeads);
  delta.key_dim = json.integer("linear_key_head_dim", 1, kMaxHeadDim);
  delta.value_dim = json.integer("linear_value_head_dim", 1, kMaxHeadDim);
  delta.conv_kernel = json.integer("linear_conv_kernel_dim", 1, 64);
}

}  // namespace kt::qwen
