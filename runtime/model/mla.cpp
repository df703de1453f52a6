// Multi-head latent attention in absorbed form, and DeepSeek sparse attention on top of it.
//
// A query goes through its head's key projection once, q~ = W_K^T q; then all heads share one key per token, the cached
// latent with its rotated part, and one value, the latent. So scores and sums are matrix products whose weights are
// cached rows, packed as they are needed; W_V is applied to the sums. Prefill and decode do the same.
//
// Queries, latents and probabilities are bf16, sums float32: a score is one chain (kernels/weight.h) over the cached
// dims, a sum of latents one chain over the keys of a span. Keys are taken in spans of kKvSpan entries of the query's
// key list, which is all positions up to its own, or, when there are more than the indexer's top_k, the ones it picked
// in ascending order. Keys that a query does not see weigh exactly 0, so neighbours in a run do not change its bits.

#include "runtime/model/mla.h"

#include <algorithm>
#include <vector>

#include "runtime/model/mla_block.h"

namespace kt {
namespace {

std::vector<MlaToken> tokens_of(const StepPlan& plan) {
  std::vector<MlaToken> tokens;
  for (size_t s = 0; s < plan.slices.size(); ++s)
    for (int i = 0; i < plan.slices[s].count; ++i)
      tokens.push_back({static_cast<int>(s), plan.slices[s].first + i, &plan.blocks[plan.block_begin[s]]});
  return tokens;
}

}  // namespace

// A row attends to rows before it, which are in the cache by then: of earlier steps, earlier blocks, or this one.
void mix_mla(Trunk& t, int layer, const StepPlan& plan) {
  const std::vector<MlaToken> tokens = tokens_of(plan);
  const std::vector<int64_t> places = cache_places(plan);
  for (int begin = 0; begin < plan.rows(); begin += kMlaRows) {
    const MlaBlock b{.t = t,
                     .m = t.config.mla,
                     .w = t.weights.layers[layer].mla,
                     .room = *t.mla,
                     .ops = t.kernels.ops,
                     .layer = layer,
                     .begin = begin,
                     .rows = std::min(kMlaRows, plan.rows() - begin),
                     .heads = t.share.heads.size(),
                     .tokens = &tokens[static_cast<size_t>(begin)],
                     .places = &places[static_cast<size_t>(begin)]};
    project_down(b);
    absorb_queries(b);
    if (b.m.indexer) pick_keys(b);
    attend(b);
    project_up(b);
  }
}

}  // namespace kt
