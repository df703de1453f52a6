// Grouped-query attention with generated weights, on every device: against attention in float64, and how rows are
// grouped into steps, runs and threads must not show in the bits.

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "runtime/model/rope.h"
#include "tests/model/machine.h"

namespace kt {
namespace {

struct Form {
  bool gated, normed, biased;
};
constexpr Form kForms[] = {{false, true, false}, {true, true, false}, {false, false, true}};

ModelConfig tiny(const Form& form) {
  ModelConfig c;
  c.hidden = 64;
  c.vocab = 80;
  c.max_context = 4096;
  c.dense_inter = 64;
  c.layers.assign(2, {.mixer = Mixer::attention, .ffn = Ffn::dense});
  c.attention = {.heads = 6, .kv_heads = 2, .head_dim = 32};
  c.attention.gated = form.gated;
  c.attention.qk_norm = form.normed;
  c.attention.bias = form.biased;
  c.attention.rope = {.theta = 1e4, .dims = 16};
  return c;
}

// A row's projections, normed and rotated.
struct Projected {
  std::vector<double> q, gate, k, v;
};

void norm_and_rotate(std::vector<double>& heads, int d, const DeviceFloats* w, double eps,
                     const std::vector<double>& frequency, int position) {
  for (size_t at = 0; at < heads.size(); at += d) {
    double squares = 0;
    for (int i = 0; i < d; ++i) squares += heads[at + i] * heads[at + i];
    for (int i = 0; w && i < d; ++i) heads[at + i] *= (*w)[i] / std::sqrt(squares / d + eps);
    const size_t half = frequency.size();
    for (size_t i = 0; i < half; ++i) {
      const double a = heads[at + i], b = heads[at + i + half], angle = position * frequency[i];
      heads[at + i] = a * std::cos(angle) - b * std::sin(angle);
      heads[at + i + half] = b * std::cos(angle) + a * std::sin(angle);
    }
  }
}

Projected project(const Machine& m, int position) {
  const AttentionSpec& a = m.config.attention;
  const AttentionWeights& w = m.weights.layers[0].attention;
  std::vector<double> all = product(w.qkv, m.input(position));
  for (size_t i = 0; i < w.bias.size(); ++i) all[i] += w.bias[i];
  auto at = all.begin();
  const auto take = [&](int heads) {
    at += heads * a.head_dim;
    return std::vector<double>(at - heads * a.head_dim, at);
  };
  Projected p{.q = take(a.heads), .gate = take(a.gated ? a.heads : 0), .k = take(a.kv_heads), .v = take(a.kv_heads)};
  const std::vector<double> frequency = rope_frequencies(a.rope);
  norm_and_rotate(p.q, a.head_dim, a.qk_norm ? &w.q_norm : nullptr, m.config.norm_eps, frequency, position);
  norm_and_rotate(p.k, a.head_dim, a.qk_norm ? &w.k_norm : nullptr, m.config.norm_eps, frequency, position);
  return p;
}

// Keys, values and the output are rounded to bf16, u = 2^-8. With p the exact weights and d = u max_j |q| |k_j| / sqrt
// (head_dim), the most that a score moves, a weight's relative error is at most r = e^2d - 1, and the output's
// |error| <= ((1 + r)(1 + u)^2 - 1) sum_j p_j |v_j|. Float32 sums of some hundred terms count as u (1 + 1/16).
TEST(Attention, IsWithinItsBoundOfExactAttention) {
  constexpr int kRows = 600;  // two spans
  constexpr double u = 17.0 / 16 / 256;
  for (const TestDevice& on : test_devices())
    for (const Form& form : kForms) {
      Machine m(tiny(form), "qwen3_moe", on);
      m.begin(m.plan({0, kRows}));
      mix_attention(m.trunk, 0);

      std::vector<Projected> rows;
      for (int r = 0; r < kRows; ++r) rows.push_back(project(m, r));
      const int d = m.config.attention.head_dim, group = m.config.attention.heads / m.config.attention.kv_heads;
      for (int row : {0, 1, 63, 511, 512, 599})
        for (int head : {0, 2, 5}) {
          const double* q = &rows[row].q[static_cast<size_t>(head) * d];
          const size_t kv = static_cast<size_t>(head) / group * d;
          std::vector<double> p;
          double moved = 0, most = -1e300, sum = 0;
          for (int j = 0; j <= row; ++j) {
            double score = 0, size = 0;
            for (int i = 0; i < d; ++i) score += q[i] * rows[j].k[kv + i], size += std::abs(q[i] * rows[j].k[kv + i]);
            p.push_back(score / std::sqrt(d));
            moved = std::max(moved, u * size / std::sqrt(d));
            most = std::max(most, p.back());
          }
          for (double& x : p) sum += x = std::exp(x - most);
          for (int i = 0; i < d; ++i) {
            double out = 0, size = 0;
            for (int j = 0; j <= row; ++j)
              out += p[j] / sum * rows[j].v[kv + i], size += p[j] / sum * std::abs(rows[j].v[kv + i]);
            const double gate = form.gated ? 1 / (1 + std::exp(-rows[row].gate[static_cast<size_t>(head) * d + i])) : 1;
            const double bound = (std::exp(2 * moved) * (1 + u) * (1 + u) - 1) * size * gate;
            ASSERT_NEAR(to_float(m.trunk.step.gated.row(row)[head * d + i]), out * gate, bound)
                << on.name() << " row " << row << " head " << head << " dim " << i;
          }
        }
    }
}

TEST(Attention, GroupingThreadsAndDevicesDoNotShow) {
  std::vector<Chunk> chunks;
  for (int first = 0; first < 576; first += 64) chunks.push_back({first, 64});
  for (int first = 576; first < 590; ++first) chunks.push_back({first, 1});  // beyond the first span
  std::vector<float> expected;
  for (const TestDevice& on : test_devices()) {
    Machine whole(tiny(kForms[1]), "qwen3_moe", on), cut(tiny(kForms[1]), "qwen3_moe", on);
    const std::vector<float> together = whole.logits({{0, 590}}), apart = cut.logits(chunks);

    if (expected.empty()) expected = together;
    for (float x : together) ASSERT_TRUE(std::isfinite(x));
    EXPECT_EQ(0, std::memcmp(together.data(), expected.data(), expected.size() * sizeof(float))) << on.name();
    EXPECT_EQ(0, std::memcmp(apart.data(), expected.data(), expected.size() * sizeof(float))) << on.name();
  }
}

// A context whose spans are more than are merged at a time.
TEST(Attention, LongContextsAreMergedInWaves) {
  ModelConfig config = tiny(kForms[0]);
  const int last = Machine::kBlocks * kBlockTokens - 1;  // 8 spans for each of 2 key-value heads
  std::vector<float> expected;
  for (int threads : {1, 2, 5}) {
    Machine m(config, "qwen3_moe", {available_ops().back(), threads});
    m.cache.fill_arbitrary();
    const std::vector<float> found = m.logits({{last, 1}});

    if (expected.empty()) expected = found;
    EXPECT_EQ(0, std::memcmp(found.data(), expected.data(), expected.size() * sizeof(float))) << threads;
  }
}

}  // namespace
}  // namespace kt
