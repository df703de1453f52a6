// A feed-forward layer of routed experts with generated weights, on every device: against float64, and who computes an
// expert must not show in the bits.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/model/machine.h"

namespace kt {
namespace {

ModelConfig tiny(bool sigmoid) {
  ModelConfig c;
  c.hidden = 64;
  c.vocab = 80;
  c.max_context = 4096;
  c.layers.assign(2, {.mixer = Mixer::attention, .ffn = Ffn::moe});
  c.attention = {.heads = 2, .kv_heads = 2, .head_dim = 32};
  c.attention.rope = {.theta = 1e4, .dims = 32};
  c.moe = {.experts = 8, .top_k = 3, .inter = 96, .norm_topk = true, .shared_inter = 64, .shared_gate = !sigmoid};
  if (sigmoid) c.moe.sigmoid = SigmoidSpec{.groups = 4, .kept_groups = 2, .scale = 2.5f};
  return c;
}

// down(silu(gate x) up x) with gate's panel p at 2p and up's at 2p + 1, and what rounding the activations to bf16 may
// change of it.
struct Output {
  std::vector<double> y, bound;
};
Output swiglu(const FfnWeights& w, const std::vector<double>& x) {
  const std::vector<double> all = product(w.gate_up, x);
  std::vector<double> h(static_cast<size_t>(w.columns));
  for (int c = 0; c < w.columns; ++c) {
    const int gate = c / kPanel * 2 * kPanel + c % kPanel;
    h[c] = all[gate] / (1 + std::exp(-all[gate])) * all[gate + kPanel];
  }
  Output out{product(w.down, h), std::vector<double>(static_cast<size_t>(w.down.n))};
  for (int o = 0; o < w.down.n; ++o)
    for (int c = 0; c < w.columns; ++c) out.bound[o] += std::abs(weight(w.down, o, c) * h[c]) / 256;
  return out;
}

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

// The routing of a row in float64. Expert e of sigmoid routing is in group e / 2, whose score is the sum of its two.
std::vector<double> scores(const MoeSpec& moe, const std::vector<double>& logits, DeviceFloats bias) {
  std::vector<double> s;
  for (int e = 0; e < moe.experts; ++e) s.push_back(moe.sigmoid ? sigmoid(logits[e]) + bias[e] : std::exp(logits[e]));
  if (!moe.sigmoid) return s;
  std::vector<double> groups;
  for (int g = 0; g < 4; ++g) groups.push_back(s[2 * g] + s[2 * g + 1]);
  std::vector<double> sorted = groups;
  std::sort(sorted.rbegin(), sorted.rend());
  for (int e = 0; e < moe.experts; ++e)
    if (groups[e / 2] < sorted[1]) s[e] = -1e9;
  return s;
}

// Float32 sums are within 2^-16 of the sum of magnitudes, bf16 activations within 2^-8 of theirs.
TEST(Moe, IsWithinItsBoundOfFloat64) {
  constexpr int kRows = 40;
  for (const TestDevice& on : test_devices())
    for (const bool by_sigmoid : {false, true}) {
      Machine m(tiny(by_sigmoid), by_sigmoid ? "deepseek_v3" : "qwen3_next", on);
      const MoeSpec& moe_spec = m.config.moe;
      m.begin(m.plan({0, kRows}));
      moe(m.trunk, 0);

      const LayerWeights& w = m.weights.layers[0];
      for (int r = 0; r < kRows; ++r) {
        const std::vector<double> x = m.input(r), logits = product(w.router, x),
                                  s = scores(moe_spec, logits, w.router_bias);
        const int32_t* ids = m.trunk.experts->routed.ids + r * moe_spec.top_k;
        std::vector<double> sorted = s;
        std::sort(sorted.rbegin(), sorted.rend());
        for (int j = 0; j < moe_spec.top_k; ++j)
          ASSERT_NEAR(s[ids[j]], sorted[j], 1e-5 * std::abs(sorted[j]) + 1e-6) << r;

        double total = 0;
        const auto raw = [&](int j) { return moe_spec.sigmoid ? sigmoid(logits[ids[j]]) : s[ids[j]]; };
        for (int j = 0; j < moe_spec.top_k; ++j) total += raw(j);
        const Output shared = swiglu(w.shared, x);
        const double gate = moe_spec.shared_gate ? sigmoid(logits[moe_spec.experts]) : 1;
        std::vector<double> y(shared.y), bound(shared.bound);
        for (size_t i = 0; i < y.size(); ++i) y[i] *= gate, bound[i] *= gate;
        for (int j = 0; j < moe_spec.top_k; ++j) {
          const double weight = raw(j) / total * (moe_spec.sigmoid ? moe_spec.sigmoid->scale : 1);
          ASSERT_NEAR(m.trunk.experts->routed.weights[r * moe_spec.top_k + j], weight, 1e-5) << r;
          const Output out = swiglu(m.bank->layer(0, moe_spec.experts)[ids[j]], x);
          for (size_t i = 0; i < y.size(); ++i) y[i] += weight * out.y[i], bound[i] += weight * out.bound[i];
        }
        for (size_t i = 0; i < y.size(); ++i)
          ASSERT_NEAR(m.trunk.step.y.row(r)[i], y[i], bound[i] + 1e-6) << on.name() << " row " << r << " column " << i;
      }
    }
}

TEST(Moe, HotAndStreamedExpertsHaveTheBanksBits) {
  for (const TestDevice& on : test_devices()) {
    Machine plain(tiny(false), "qwen3_next", on),
        hot(tiny(false), "qwen3_next", on, {.hot_experts = 4, .layerwise = true});
    const std::vector<float> expected = plain.logits({{0, 70}});
    StepPlan moved = hot.plan({0, 70}), streamed = hot.plan({0, 70});
    moved.orders.moves = {{.layer = 0, .in = 1}, {.layer = 0, .in = 6}, {.layer = 1, .in = 0}};
    streamed.orders.layerwise = true;

    for (const StepPlan* plan : {&moved, &streamed}) {
      const float* row = forward(hot.trunk, *plan);
      EXPECT_EQ(std::vector<float>(row, row + hot.config.vocab), expected) << on.name();
    }
    EXPECT_GT(hot.trunk.report.hot_pairs, 0);
    EXPECT_GT(hot.trunk.report.streamed_bytes, 0);
  }
}

}  // namespace
}  // namespace kt
