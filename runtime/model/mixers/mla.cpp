// Multi-head latent attention, and DeepSeek sparse attention on top of it.
//
// Absorbed form: a query goes through its head's key projection once, q~ = W_K^T q; then all heads share one key per
// token, the cached latent with its rotated part, and one value, the latent. So scores and sums are matrix products
// whose weights are cached rows, packed as they are needed; W_V is applied to the sums.
//
// Expanded form: each head makes keys W_K c and values W_V c of the cached latents, and attends to
// those. In DeepSeek's dims a query then takes 320 multiplications per key and head instead of 1088, and expanding a
// key takes 131072, once for all rows of a block: it is cheaper from 171 rows on.
//
// The form of a row follows from its position and its request's prompt alone, so that neither chunks nor neighbours
// show: whole blocks of kMlaPromptBlock tokens of the prompt are expanded where they see all keys before them. A
// prompt's rest would be few rows for many keys. Answers are absorbed, also when they are computed again after a
// retraction, and so are rows whose keys the indexer picks.
//
// Queries, keys, latents and probabilities are bf16, sums float32: a score is one chain (kernels/weight.h) over the
// dims of a key, a sum of values one chain over the keys of a span. Keys are taken in spans of kKvSpan entries of the
// query's key list, which is all positions up to its own, or, when there are more than the indexer's top_k, the ones it
// picked in ascending order. Keys that a query does not see weigh exactly 0, so neighbours in a run do not change its
// bits.

#include "runtime/model/latent_blocks.h"

#include <algorithm>

#include "runtime/model/trunk.h"

namespace kt {
namespace {

// Positions before this are computed in expanded form.
int expanded_end(const MlaSpec& m, const SeqSlice& slice) {
  const int whole = slice.prompt / kMlaPromptBlock * kMlaPromptBlock;
  return m.indexer ? std::min(whole, m.indexer->top_k) : whole;
}

LatentLayer layer_of(const Trunk& t, int layer) {
  const MlaWeights& w = t.weights.layers[layer].mla;
  return {.heads = latent_heads(t.config, t.share),
          .pages = t.cache.pages(layer),
          .q_b = &w.q_b,
          .key_up = w.key_up.data(),
          .value_up = w.value_up.data(),
          .q_norm = w.q_norm.data(),
          .kv_norm = w.kv_norm.data(),
          .index_norm = w.index_norm.data(),
          .index_bias = w.index_bias.data()};
}

// Latents of rows; those of keys, and index keys, go to the cache.
void project_down(Trunk& t, const MlaWeights& w, const LatentLayer& l, RowRange rows, const Mat<bf16>& q_latent) {
  const LatentRows& all = t.step.latent.down;
  const LatentRows down{all.q.top(rows.count), all.kv.top(rows.count), all.index_key.top(rows.count),
                        all.index_weights.top(rows.count)};
  const Mat<bf16> h = t.step.h.part(rows.first, rows.count);
  if (l.heads.top_k)
    t.device.linear(
        h, {{w.q_a, down.q}, {w.kv_a, down.kv}, {w.index_k, down.index_key}, {w.index_weights, down.index_weights}});
  else
    t.device.linear(h, {{w.q_a, down.q}, {w.kv_a, down.kv}});
  t.device.latents(l, rows, down, q_latent);
}

void mix_absorbed(Trunk& t, const MlaWeights& w, const LatentLayer& l, const LatentBlock& block) {
  const LatentMemory& m = t.step.latent;
  const RowRange rows{block.first, block.count};
  const Mat<bf16> q_latent = m.q_latent.top(rows.count), query = m.query.top(rows.count), sums = m.sums.top(rows.count);
  const Mat<float> q = m.q.top(rows.count), index_q = m.index_q.top(rows.count);
  project_down(t, w, l, rows, q_latent);
  if (block.sparse) {
    t.device.linear(q_latent, {{w.q_b, q}, {w.index_q, index_q}});
    t.device.pick(l, rows, index_q, m.index_q16, m.down.index_weights, m.picked);
  } else {
    t.device.linear(q_latent, {{w.q_b, q}});
  }
  t.device.absorb(l, rows, q, query);
  t.device.attend_latents(l, rows, query, m.picked, sums);
  t.device.value_up(l, sums, m.out.top(rows.count));
}

void mix_expanded(Trunk& t, const MlaWeights& w, const LatentLayer& l, const LatentBlock& block) {
  const LatentMemory& m = t.step.latent;
  for (int i = 0; i < block.count; i += kMlaRows) {
    const int count = std::min(kMlaRows, block.count - i);
    project_down(t, w, l, {block.first + i, count}, m.q_latent.part(i, count));
  }
  t.device.attend_expanded(l, {block.first, block.count}, m.q_latent.top(block.count), m.out.top(block.count));
}

}  // namespace

void cut_latent_blocks(const MlaSpec& m, const StepPlan& plan, std::vector<LatentBlock>& blocks) {
  blocks.clear();
  int row = 0, slice_of_last = -1;
  for (size_t s = 0; s < plan.slices.size(); ++s) {
    const SeqSlice& slice = plan.slices[s];
    for (int position = slice.first; position < slice.first + slice.count; ++position, ++row) {
      const bool expanded = position < expanded_end(m, slice);
      const int most = expanded ? kMaxExpandedRows : kMlaRows;
      const bool joins = !blocks.empty() && blocks.back().expanded == expanded && blocks.back().count < most &&
                         (!expanded || slice_of_last == static_cast<int>(s));
      if (!joins) blocks.push_back({.first = row, .expanded = expanded});
      LatentBlock& block = blocks.back();
      ++block.count;
      block.sparse |= m.indexer && position >= m.indexer->top_k;
      slice_of_last = static_cast<int>(s);
    }
  }
}

// A row attends to rows before it, which are in the cache by then: of earlier steps, earlier blocks, or this one.
void mix_mla(Trunk& t, int layer) {
  const MlaWeights& w = t.weights.layers[layer].mla;
  const LatentLayer l = layer_of(t, layer);
  for (const LatentBlock& block : t.blocks) {
    if (block.expanded)
      mix_expanded(t, w, l, block);
    else
      mix_absorbed(t, w, l, block);
    t.device.linear_sum(t.step.latent.out.top(block.count), w.out, l.heads.value_dim, nullptr,
                        t.step.y.part(block.first, block.count));
  }
}

}  // namespace kt
