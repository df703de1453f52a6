// Gated delta net (Yang et al., "Gated Delta Networks", 2024).

#include "runtime/model/trunk.h"

namespace kt {

void mix_delta_net(Trunk& t, int layer) {
  const DeltaWeights& w = t.weights.layers[layer].delta;
  const DeltaHeads heads = delta_heads(t.config, t.share);
  const int rows = t.batch.rows();
  const Mat<float> fused = t.step.fused.top(rows), gates = t.step.gates.top(rows), conv = t.step.conv.top(rows),
                   mixed = t.step.mixed.top(rows);
  const Mat<bf16> out = t.step.gated.top(rows);

  t.device.linear(t.normed(), {{w.qkvz, fused}, {w.ba, gates}});
  t.device.conv(heads, fused, w.conv.data(), t.cache.conv_history(layer), conv);
  t.device.delta_inputs(heads, conv, gates, w.decay.data(), w.dt_bias.data());
  t.device.delta_rule(heads, conv, gates, t.cache.delta_state(layer), mixed);
  t.device.gated_norm(heads, mixed, fused, w.norm.data(), t.config.norm_eps, out);
  t.device.linear_sum(out, w.out, heads.value_dim, nullptr, t.sums());
}

}  // namespace kt
