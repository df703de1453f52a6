// Gated delta net with generated weights, on every device: against the recurrence in float64; cuts, snapshots and
// threads must not show in the bits.

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "tests/model/machine.h"

namespace kt {
namespace {

ModelConfig tiny() {
  ModelConfig c;
  c.hidden = 64;
  c.vocab = 80;
  c.max_context = 4096;
  c.dense_inter = 64;
  c.layers.assign(2, {.mixer = Mixer::delta_net, .ffn = Ffn::dense});
  c.attention = {.heads = 2, .kv_heads = 2, .head_dim = 32};
  c.attention.rope = {.theta = 1e4, .dims = 16};
  c.delta = {.key_heads = 2, .value_heads = 4, .key_dim = 32, .value_dim = 96, .conv_kernel = 4};
  return c;
}

double silu(double x) { return x / (1 + std::exp(-x)); }

// What the mixer makes of rows 0, 1, ..., before its last projection.
std::vector<std::vector<double>> recur(const Machine& m, int rows) {
  const DeltaSpec& s = m.config.delta;
  const DeltaWeights& w = m.weights.layers[0].delta;
  const int channels = s.conv_channels(), keys = s.key_heads * s.key_dim, ratio = s.value_heads / s.key_heads;
  std::vector<std::vector<double>> fused, out;
  std::vector<std::vector<double>> state(s.value_heads, std::vector<double>(s.key_dim * s.value_dim));
  const auto unit = [&](std::vector<double>& x, int at, double scale) {
    double squares = 1e-6;
    for (int i = 0; i < s.key_dim; ++i) squares += x[at + i] * x[at + i];
    for (int i = 0; i < s.key_dim; ++i) x[at + i] *= scale / std::sqrt(squares);
  };
  for (int r = 0; r < rows; ++r) {
    fused.push_back(product(w.qkvz, m.input(r)));
    const std::vector<double> ba = product(w.ba, m.input(r));
    std::vector<double> x(channels);
    for (int c = 0; c < channels; ++c) {
      for (int tap = 0; tap < s.conv_kernel; ++tap)
        if (const int from = r - (s.conv_kernel - 1) + tap; from >= 0)
          x[c] += fused[from][c] * w.conv[static_cast<size_t>(tap) * channels + c];
      x[c] = silu(x[c]);
    }
    for (int h = 0; h < s.key_heads; ++h) {
      unit(x, h * s.key_dim, 1 / std::sqrt(s.key_dim));
      unit(x, keys + h * s.key_dim, 1);
    }
    out.emplace_back();
    for (int h = 0; h < s.value_heads; ++h) {
      const double* q = &x[h / ratio * s.key_dim];
      const double *k = q + keys, *v = &x[2 * keys + h * s.value_dim];
      const double beta = 1 / (1 + std::exp(-ba[h]));
      const double alpha = std::exp(w.decay[h] * std::log1p(std::exp(ba[s.value_heads + h] + w.dt_bias[h])));
      std::vector<double> o(s.value_dim);
      double squares = 0;
      for (int c = 0; c < s.value_dim; ++c) {
        double seen = 0;
        for (int i = 0; i < s.key_dim; ++i) seen += (state[h][i * s.value_dim + c] *= alpha) * k[i];
        for (int i = 0; i < s.key_dim; ++i) {
          double& cell = state[h][i * s.value_dim + c];
          cell += k[i] * beta * (v[c] - seen);
          o[c] += cell * q[i];
        }
        squares += o[c] * o[c];
      }
      for (int c = 0; c < s.value_dim; ++c)
        out.back().push_back(o[c] * w.norm[c] / std::sqrt(squares / s.value_dim + m.config.norm_eps) *
                             silu(fused[r][channels + h * s.value_dim + c]));
    }
  }
  return out;
}

// The output is rounded to bf16, at most 2^-8 of it; float32 sums before are within 2^-12 of a row's largest value.
TEST(DeltaNet, IsWithinItsBoundOfTheRecurrence) {
  constexpr int kRows = 70;
  for (const TestDevice& on : test_devices()) {
    Machine m(tiny(), "qwen3_next", on);
    StepPlan plan = m.plan({0, kRows});
    m.cache.clear_slot(0);
    m.begin(plan);
    mix_delta_net(m.trunk, 0);

    const std::vector<std::vector<double>> exact = recur(m, kRows);
    for (int r = 0; r < kRows; ++r) {
      double most = 0;
      for (double x : exact[r]) most = std::max(most, std::abs(x));
      for (size_t c = 0; c < exact[r].size(); ++c)
        ASSERT_NEAR(to_float(m.trunk.step.gated.row(r)[c]), exact[r][c], std::abs(exact[r][c]) / 256 + most / 4096)
            << on.name() << " row " << r << " column " << c;
    }
  }
}

TEST(DeltaNet, CutsThreadsAndDevicesDoNotShow) {
  std::vector<float> expected;
  for (const TestDevice& on : test_devices()) {
    Machine whole(tiny(), "qwen3_next", on), cut(tiny(), "qwen3_next", on);
    const std::vector<float> together = whole.logits({{0, 200}});

    if (expected.empty()) expected = together;
    for (float x : together) ASSERT_TRUE(std::isfinite(x));
    EXPECT_EQ(together, expected) << on.name();
    EXPECT_EQ(cut.logits({{0, 64}, {64, 1}, {65, 63}, {128, 71}, {199, 1}}), expected) << on.name();
  }
}

TEST(DeltaNet, AStateThatWasKeptGoesOnWhereItWas) {
  for (const TestDevice& on : test_devices()) {
    Machine whole(tiny(), "qwen3_next", on), kept(tiny(), "qwen3_next", on);
    StepPlan first = kept.plan({0, 150}), second = kept.plan({128, 72});
    first.slices[0].save = 1;
    first.slices[0].save_after = 128;
    second.slices[0].load = 1;
    second.slices[0].slot = 1;
    forward(kept.trunk, first);
    const float* row = forward(kept.trunk, second);

    EXPECT_EQ(std::vector<float>(row, row + kept.config.vocab), whole.logits({{0, 200}})) << on.name();
  }
}

}  // namespace
}  // namespace kt
