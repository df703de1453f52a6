// Multi-head latent attention, and DeepSeek sparse attention on top of it.
//
// Absorbed form: a query goes through its head's key projection once, q~ = W_K^T q; then all heads share one key per
// token, the cached latent with its rotated part, and one value, the latent. So scores and sums are matrix products
// whose weights are cached rows, packed as they are needed; W_V is applied to the sums.
//
// Expanded form (mla_expand.cpp): each head makes keys W_K c and values W_V c of the cached latents, and attends to
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

#include "runtime/model/mla.h"

#include <algorithm>
#include <vector>

#include "runtime/model/mla_block.h"

namespace kt {
namespace {

// Positions before this are computed in expanded form.
int expanded_end(const MlaSpec& m, const SeqSlice& slice) {
  const int whole = slice.prompt / kMlaPromptBlock * kMlaPromptBlock;
  return m.indexer ? std::min(whole, m.indexer->top_k) : whole;
}

std::vector<MlaToken> tokens_of(const MlaSpec& m, const StepPlan& plan) {
  std::vector<MlaToken> tokens;
  for (size_t s = 0; s < plan.slices.size(); ++s) {
    const SeqSlice& slice = plan.slices[s];
    for (int position = slice.first; position < slice.first + slice.count; ++position)
      tokens.push_back({.slice = static_cast<int>(s),
                        .position = position,
                        .expanded = position < expanded_end(m, slice),
                        .blocks = &plan.blocks[plan.block_begin[s]]});
  }
  return tokens;
}

// How many rows from `begin` on are computed together: of one form, and when expanded of one sequence.
int block_rows(const std::vector<MlaToken>& tokens, size_t begin) {
  const MlaToken& first = tokens[begin];
  const size_t most = first.expanded ? kMlaExpandedRows : kMlaRows, last = std::min(tokens.size(), begin + most);
  size_t end = begin + 1;
  while (end < last && tokens[end].expanded == first.expanded && (!first.expanded || tokens[end].slice == first.slice))
    ++end;
  return static_cast<int>(end - begin);
}

void mix_absorbed(const MlaBlock& b) {
  project_down(b);
  absorb_queries(b);
  if (b.m.indexer) pick_keys(b);
  attend(b);
  project_up(b);
  project_out(b);
}

void mix_expanded(const MlaBlock& b) {
  for (int i = 0; i < b.rows; i += kMlaRows) {
    MlaBlock part = b;
    part.begin += i;
    part.rows = std::min(kMlaRows, b.rows - i);
    part.tokens += i;
    part.places += i;
    part.kept = i;
    project_down(part);
  }
  attend_expanded(b);
  project_out(b);
}

}  // namespace

// A row attends to rows before it, which are in the cache by then: of earlier steps, earlier blocks, or this one.
void mix_mla(Trunk& t, int layer, const StepPlan& plan) {
  const std::vector<MlaToken> tokens = tokens_of(t.config.mla, plan);
  const std::vector<int64_t> places = cache_places(plan);
  for (int begin = 0, rows; begin < plan.rows(); begin += rows) {
    rows = block_rows(tokens, static_cast<size_t>(begin));
    const MlaBlock b{.t = t,
                     .m = t.config.mla,
                     .w = t.weights.layers[layer].mla,
                     .room = *t.mla,
                     .ops = t.kernels.ops,
                     .layer = layer,
                     .begin = begin,
                     .rows = rows,
                     .heads = t.share.heads.size(),
                     .tokens = &tokens[static_cast<size_t>(begin)],
                     .places = &places[static_cast<size_t>(begin)]};
    if (b.tokens->expanded)
      mix_expanded(b);
    else
      mix_absorbed(b);
  }
}

}  // namespace kt
