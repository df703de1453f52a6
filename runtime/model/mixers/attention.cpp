// Grouped-query attention, plain and gated.

#include "runtime/model/trunk.h"

namespace kt {

void mix_attention(Trunk& t, int layer) {
  const AttentionWeights& w = t.weights.layers[layer].attention;
  const GroupedHeads heads = grouped_heads(t.config, t.share);
  const Mat<float> fused = t.step.fused.top(t.batch.rows());
  const Mat<bf16> out = t.step.gated.top(t.batch.rows());
  const Pages pages = t.cache.pages(layer);

  t.device.linear(t.normed(), {{w.qkv, fused}});
  t.device.heads({.heads = heads,
                  .rows = fused,
                  .bias = w.bias,
                  .q_norm = w.q_norm.data(),
                  .k_norm = w.k_norm.data(),
                  .eps = t.config.norm_eps,
                  .pages = pages});
  t.device.attend(heads, fused, pages, out);
  t.device.linear_sum(out, w.out, heads.head_dim, nullptr, t.sums());
}

}  // namespace kt
