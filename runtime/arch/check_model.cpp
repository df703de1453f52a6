#include "runtime/arch/check_model.h"

#include <algorithm>
#include <string>

#include "runtime/arch/limits.h"
#include "runtime/base/error.h"

namespace kt {
namespace {

void require(bool right, const char* key, const std::string& expected, int64_t found) {
  if (!right) fail(kExitModel, "config.json: {}: expected {}, found {}", key, expected, found);
}
void in_range(const char* key, int64_t value, int64_t low, int64_t high) {
  require(value >= low && value <= high, key, fmt::format("an integer in [{}, {}]", low, high), value);
}
void multiple(const char* key, int64_t value, int64_t unit) {
  require(value > 0 && value % unit == 0, key, unit == 2 ? "an even number" : fmt::format("a multiple of {}", unit),
          value);
}
// A width that is made of others, as the rows or columns of one matrix.
void width(const char* what, int64_t value) { in_range(what, value, 1, kMaxWidth); }

bool any(const ModelConfig& c, Mixer mixer) {
  return std::any_of(c.layers.begin(), c.layers.end(), [&](LayerSpec l) { return l.mixer == mixer; });
}
bool any(const ModelConfig& c, Ffn ffn) {
  return std::any_of(c.layers.begin(), c.layers.end(), [&](LayerSpec l) { return l.ffn == ffn; });
}

// Heads are slices of the output projection's sum: whole tiles of 32 inputs.
void check_attention(const AttentionSpec& a) {
  in_range("num_attention_heads", a.heads, 1, kMaxHeads);
  require(a.kv_heads > 0 && a.heads % a.kv_heads == 0, "num_key_value_heads",
          fmt::format("a divisor of num_attention_heads = {}", a.heads), a.kv_heads);
  multiple("head_dim", a.head_dim, 32);
  require(a.rope.dims >= 2 && a.rope.dims % 2 == 0 && a.rope.dims <= a.head_dim, "partial_rotary_factor",
          fmt::format("an even number of rotated dims of head_dim = {}", a.head_dim), a.rope.dims);
  width("num_attention_heads x head_dim", int64_t{a.heads} * a.head_dim * (a.gated ? 2 : 1));
}

// Vectors of 16 run over a key; values are slices of the output projection's sum.
void check_delta_net(const DeltaSpec& d) {
  in_range("linear_num_key_heads", d.key_heads, 1, kMaxHeads);
  require(d.value_heads > 0 && d.value_heads % d.key_heads == 0, "linear_num_value_heads",
          fmt::format("a multiple of linear_num_key_heads = {}", d.key_heads), d.value_heads);
  multiple("linear_key_head_dim", d.key_dim, 16);
  multiple("linear_value_head_dim", d.value_dim, 32);
  in_range("linear_conv_kernel_dim", d.conv_kernel, 1, 64);
  width("linear heads x their dims", 2 * (int64_t{d.key_heads} * d.key_dim + int64_t{d.value_heads} * d.value_dim));
}

void check_latent_attention(const MlaSpec& m) {
  in_range("num_attention_heads", m.heads, 1, kMaxHeads);
  multiple("q_lora_rank", m.q_rank, 32);
  multiple("kv_lora_rank", m.kv_rank, 32);
  multiple("qk_nope_head_dim", m.nope_dim, 32);
  multiple("qk_rope_head_dim", m.rope.dims, 32);
  multiple("v_head_dim", m.value_dim, 32);
  width("num_attention_heads x head dims", int64_t{m.heads} * std::max(m.head_dim(), m.nope_dim + m.value_dim));
  width("kv_lora_rank + qk_rope_head_dim", m.cached_dim());
  if (!m.indexer) return;
  in_range("index_n_heads", m.indexer->heads, 1, kMaxHeads);
  multiple("index_head_dim", m.indexer->head_dim, 32);
  in_range("index_topk", m.indexer->top_k, 1, kMaxContext);
  require(m.indexer->head_dim >= m.rope.dims, "index_head_dim",
          fmt::format("at least qk_rope_head_dim = {}", m.rope.dims), m.indexer->head_dim);
  width("index_n_heads x index_head_dim", int64_t{m.indexer->heads} * m.indexer->head_dim);
}

void check_experts(const MoeSpec& m) {
  in_range("num_experts", m.experts, 1, kMaxExperts);
  width("moe_intermediate_size", m.inter);
  in_range("shared expert's intermediate size", m.shared_inter, 0, kMaxWidth);
  require(m.top_k > 0 && m.top_k <= m.experts, "num_experts_per_tok",
          fmt::format("at least 1 and at most num_experts = {}", m.experts), m.top_k);
  if (!m.sigmoid) return;
  const SigmoidSpec& s = *m.sigmoid;
  require(s.groups > 0 && s.groups <= kMaxExpertGroups && m.experts % s.groups == 0, "n_group",
          fmt::format("a divisor of the number of experts = {}, at most {}", m.experts, kMaxExpertGroups), s.groups);
  in_range("topk_group", s.kept_groups, 1, s.groups);
  const int candidates = m.experts / s.groups * s.kept_groups;
  require(m.top_k <= candidates, "num_experts_per_tok",
          fmt::format("at most {}, the experts of {} of {} groups", candidates, s.kept_groups, s.groups), m.top_k);
}

// INT4 has groups of 32 inputs, in words of 8; FP8's blocks may be cut short, but panels of 16 outputs share a scale.
void check_quantised(const ModelConfig& c) {
  if (c.quant.stored == Stored::int4_group && any(c, Ffn::moe)) {
    multiple("hidden_size of INT4 experts", c.hidden, 32);
    multiple("moe_intermediate_size of INT4 experts", c.moe.inter, 32);
  }
  if (c.quant.stored == Stored::fp8_block) {
    multiple("weight_block_size[0]", c.quant.block_rows, 16);
    multiple("weight_block_size[1]", c.quant.block_columns, 32);
  }
}

}  // namespace

void check_model(const ModelConfig& c) {
  multiple("hidden_size", c.hidden, 2);
  in_range("hidden_size", c.hidden, 1, kMaxWidth);
  in_range("vocab_size", c.vocab, 1, kMaxVocab);
  in_range("max_position_embeddings", c.max_context, 1, kMaxContext);
  in_range("num_hidden_layers", static_cast<int64_t>(c.layers.size()), 1, kMaxLayers);
  if (any(c, Mixer::attention)) check_attention(c.attention);
  if (any(c, Mixer::delta_net)) check_delta_net(c.delta);
  if (any(c, Mixer::mla)) check_latent_attention(c.mla);
  if (any(c, Ffn::moe) || c.moe.experts) check_experts(c.moe);
  if (any(c, Ffn::dense)) width("intermediate_size", c.dense_inter);
  check_quantised(c);
}

}  // namespace kt
