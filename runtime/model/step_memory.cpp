#include "runtime/model/step_memory.h"

#include <algorithm>

namespace kt {
namespace {

bool mixes(const ModelConfig& c, Mixer mixer) {
  return std::any_of(c.layers.begin(), c.layers.end(), [&](LayerSpec l) { return l.mixer == mixer; });
}

LatentMemory lay_out_latent(Layout& layout, const LatentHeads& m, int max_rows) {
  const int64_t rows = std::min(max_rows, kMlaRows), kept = std::min(max_rows, kMaxExpandedRows);
  const int64_t index_columns = static_cast<int64_t>(m.index_heads) * m.index_dim, heads = m.heads;
  LatentMemory l;
  l.down.q = layout.matrix<float>(rows, m.q_rank, kPanel);
  l.down.kv = layout.matrix<float>(rows, m.cached_dim(), kPanel);
  l.q_latent = layout.matrix<bf16>(kept, m.q_rank, kTileK);
  l.q = layout.matrix<float>(rows, heads * m.head_dim(), kPanel);
  l.query = layout.matrix<bf16>(rows, heads * m.cached_dim());
  l.sums = layout.matrix<bf16>(rows, heads * m.kv_rank);
  l.out = layout.matrix<bf16>(kept, heads * m.value_dim);
  if (!m.top_k) return l;
  l.down.index_key = layout.matrix<float>(rows, m.index_dim, kPanel);
  l.down.index_weights = layout.matrix<float>(rows, m.index_heads, kPanel);
  l.index_q = layout.matrix<float>(rows, index_columns, kPanel);
  l.index_q16 = layout.matrix<bf16>(rows, index_columns);
  l.picked = layout.matrix<int32_t>(rows, m.top_k);
  return l;
}

}  // namespace

GroupedHeads grouped_heads(const ModelConfig& c, const TrunkShare& share) {
  if (!mixes(c, Mixer::attention)) return {};
  return {.heads = share.heads.size(),
          .kv_heads = share.kv_heads.size(),
          .head_dim = c.attention.head_dim,
          .gated = c.attention.gated};
}

DeltaHeads delta_heads(const ModelConfig& c, const TrunkShare& share) {
  return {.key_heads = share.key_heads.size(),
          .value_heads = share.value_heads.size(),
          .key_dim = c.delta.key_dim,
          .value_dim = c.delta.value_dim,
          .taps = c.delta.conv_kernel};
}

LatentHeads latent_heads(const ModelConfig& c, const TrunkShare& share) {
  const MlaSpec& m = c.mla;
  if (!m.heads) return {};
  LatentHeads heads{.heads = share.heads.size(),
                    .q_rank = m.q_rank,
                    .kv_rank = m.kv_rank,
                    .nope_dim = m.nope_dim,
                    .rope_dim = m.rope.dims,
                    .value_dim = m.value_dim,
                    .scale = m.scale};
  if (m.indexer)
    heads.index_heads = m.indexer->heads, heads.index_dim = m.indexer->head_dim, heads.top_k = m.indexer->top_k;
  return heads;
}

StepShape bank_shape(const ModelConfig& c, const ExpertShare& bank, Format format, int max_rows) {
  return {.experts = {.experts = c.moe.experts * bank.parts(),
                      .top_k = c.moe.top_k * bank.parts(),
                      .hidden = c.hidden,
                      .columns = bank.widest(),
                      .rows = max_rows,
                      .format = format}};
}

// Of the trunk's products.
int widest_input(const ModelConfig& c, const TrunkShare& share) {
  const DeltaHeads d = delta_heads(c, share);
  return std::max({c.hidden, static_cast<int>(grouped_heads(c, share).query_columns()), d.value_heads * d.value_dim,
                   share.heads.size() * c.mla.value_dim, share.dense.size(), share.shared.size()});
}

// Experts: of the rank's bank, and those that are hot here or come here, one after the other. Only a bank's format has
// 8-bit activations.
StepShape step_shape(const ModelConfig& c, const TrunkShare& share, const TrunkLimits& limits,
                     const ExpertShare& bank) {
  const bool here = limits.hot_experts || limits.layerwise;
  const int columns = here ? inter_part(c.moe.inter, share.index, share.count).size() : 0;
  const Format format = bank.columns() || limits.layerwise ? limits.expert_format : limits.hot_format;
  StepShape shape = bank_shape(c, bank, format, limits.max_rows);
  shape.experts.columns = std::max(columns, shape.experts.columns);
  shape.rows = limits.max_rows;
  shape.context = limits.context;
  shape.tensor_cores = limits.tensor_cores;
  shape.attention = grouped_heads(c, share);
  shape.latent = latent_heads(c, share);
  if (limits.trunk_method && info(*limits.trunk_method).int8_activations) shape.int8_columns = widest_input(c, share);
  return shape;
}

Mat<double> sum_rows(Layout& layout, const ModelConfig& c, const TrunkLimits& limits) {
  return layout.matrix<double>(limits.max_rows, c.hidden, kPanel);
}

SumMemory lay_out_sums(Layout& layout, const ModelConfig& c, const TrunkShare& share, const TrunkLimits& limits) {
  SumMemory s;
  if (!limits.device_sums) s.y = sum_rows(layout, c, limits);
  s.logits = layout.matrix<float>(limits.max_logit_rows, share.vocab.size(), kPanel);
  return s;
}

StepMemory lay_out_step(Layout& layout, const ModelConfig& c, const TrunkShare& share, const TrunkLimits& limits) {
  const int64_t rows = limits.max_rows;
  const GroupedHeads a = grouped_heads(c, share);
  const DeltaHeads d = delta_heads(c, share);
  const int64_t values = static_cast<int64_t>(d.value_heads) * d.value_dim;
  StepMemory s;
  s.x = layout.matrix<float>(rows, c.hidden, kPanel);
  s.h = layout.matrix<bf16>(rows, c.hidden, kTileK);
  s.fused = layout.matrix<float>(rows, std::max(a.columns(), d.channels() + values), kPanel);
  s.mixed = layout.matrix<float>(rows, values);
  s.gated = layout.matrix<bf16>(rows, std::max(a.query_columns(), values), kTileK);
  s.gates = layout.matrix<float>(rows, 2ll * d.value_heads, kPanel);
  s.conv = layout.matrix<float>(rows, d.channels());
  s.activations = layout.matrix<bf16>(rows, std::max(share.dense.size(), share.shared.size()), kTileK);
  s.router = layout.matrix<float>(rows, c.moe.experts + 1, kPanel);
  s.shared_gate = layout.matrix<float>(rows, 1);
  if (!limits.shares_sums) {
    const SumMemory sums = lay_out_sums(layout, c, share, limits);
    s.y = sums.y;
    s.logits = sums.logits;
  }
  if (limits.device_sums) s.y = sum_rows(layout, c, limits);
  const LatentHeads m = latent_heads(c, share);
  if (m.heads) s.latent = lay_out_latent(layout, m, limits.max_rows);
  return s;
}

size_t step_bytes(const ModelConfig& config, const TrunkShare& share, const TrunkLimits& limits,
                  const ExpertShare& bank, int threads) {
  Layout step;
  lay_out_step(step, config, share, limits);
  return Buffer::footprint(step.bytes()) +
         Buffer::footprint(limits.device->reserve_bytes(step_shape(config, share, limits, bank), threads));
}

}  // namespace kt
