// Latent attention on one rank with generated weights: how rows are grouped into steps, blocks, runs and threads must
// not show in the bits, and both of its forms are near exact attention. Equality with the published equations is
// checked on the tiny checkpoints (tests/e2e).

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "runtime/model/rope.h"
#include "tests/model/machine.h"

namespace kt {
namespace {

// index_top_k 0: no indexer.
ModelConfig tiny(int index_top_k) {
  ModelConfig c;
  c.hidden = 64;
  c.vocab = 80;
  c.max_context = 4096;
  c.dense_inter = 64;
  c.layers.assign(2, {.mixer = Mixer::mla, .ffn = Ffn::dense});
  c.mla = {.heads = 4, .q_rank = 64, .kv_rank = 64, .nope_dim = 32, .value_dim = 32, .scale = 0.125f};
  c.mla.rope = {.theta = 1e4, .dims = 32};
  if (index_top_k) c.mla.indexer = IndexerSpec{.heads = 4, .head_dim = 64, .top_k = index_top_k};
  return c;
}

// Logits of the last token of the last chunk.
std::vector<float> logits(const ModelConfig& config, int threads, const std::vector<Chunk>& chunks, int prompt = 0) {
  return Machine(config, "deepseek_v3", {&choose_ops(), threads}).logits(chunks, prompt);
}

// 1300 tokens are three spans of keys and six blocks of rows.
const std::vector<Chunk> kWhole = {{0, 1300}};
std::vector<Chunk> chunked() {
  std::vector<Chunk> chunks;
  for (int first = 0; first < 1280; first += 64) chunks.push_back({first, 64});
  for (int first = 1280; first < 1300; ++first) chunks.push_back({first, 1});
  return chunks;
}

void expect_same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  ASSERT_EQ(a.size(), b.size());
  EXPECT_EQ(0, std::memcmp(a.data(), b.data(), a.size() * sizeof(float)));
  for (float x : a) ASSERT_TRUE(std::isfinite(x));
}

TEST(Mla, GroupingAndThreadsDoNotShow) {
  const ModelConfig config = tiny(0);
  const std::vector<float> whole = logits(config, 1, kWhole);

  expect_same_bits(logits(config, 1, chunked()), whole);
  expect_same_bits(logits(config, 3, chunked()), whole);
  expect_same_bits(logits(config, 5, kWhole), whole);
}

TEST(Mla, GroupingAndThreadsDoNotShowWithPickedKeys) {
  for (int top_k : {16, 600}) {
    const ModelConfig config = tiny(top_k);
    const std::vector<float> whole = logits(config, 1, kWhole);

    expect_same_bits(logits(config, 1, chunked()), whole);
    expect_same_bits(logits(config, 3, chunked()), whole);
  }
}

// Of 1300 tokens 1290 are the prompt's, and 1280 of those in whole blocks.
TEST(Mla, GroupingAndThreadsDoNotShowInExpandedForm) {
  for (int top_k : {0, 100, 600}) {
    const ModelConfig config = tiny(top_k);
    const std::vector<float> whole = logits(config, 1, kWhole, 1290);

    expect_same_bits(logits(config, 1, chunked(), 1290), whole);
    expect_same_bits(logits(config, 3, chunked(), 1290), whole);
    expect_same_bits(logits(config, 5, {{0, 640}, {640, 660}}, 1290), whole);
    EXPECT_NE(logits(config, 1, kWhole), whole) << "the forms round alike";
  }
}

TEST(Mla, PromptsLongerThanAnExpandedBlockOfRowsAreTakenInSeveral) {
  const ModelConfig config = tiny(0);

  expect_same_bits(logits(config, 2, {{0, 2112}, {2112, 1200}}, 3328), logits(config, 2, {{0, 3312}}, 3328));
}

// What follows the last whole block, and answers, which may be computed again after a retraction.
TEST(Mla, OnlyWholeBlocksOfThePromptAreExpanded) {
  const ModelConfig config = tiny(0);
  const std::vector<Chunk> chunk = {{0, 700}};

  expect_same_bits(logits(config, 1, chunk, 255), logits(config, 1, chunk, 0));
  expect_same_bits(logits(config, 1, chunk, 511), logits(config, 1, chunk, 256));
  EXPECT_NE(logits(config, 1, chunk, 512), logits(config, 1, chunk, 511));
}

TEST(Mla, AnIndexerThatKeepsEveryKeyChangesNothing) {
  const std::vector<float> all = logits(tiny(0), 2, kWhole);

  expect_same_bits(logits(tiny(1300), 2, kWhole), all);
  EXPECT_NE(logits(tiny(1299), 2, kWhole), all);
}

// What one head makes of a row, and how far each form may be from it. With u = 2^-8 the rounding of bf16, p the exact
// weights and d the most that a score's rounding moves it, a weight's relative error is at most r = e^2d (1+u)/(1-u)
// - 1. absorbed   q~ is rounded, then the sum of latents, then the output:  d = u s max_j |q~| |c_j|,
//            |error| <= ((1+r)(1+u)^2 - 1) |W_V| sum_j p_j |c_j|
// expanded   keys and values are rounded, then the output:             d = u s max_j |q| |W_K c_j|,
//            |error| <= ((1+r)(1+u)^2 - 1) sum_j p_j |W_V c_j|
// Float32 sums of some hundred terms are within 1/16 of u of exact ones, which counts as u (1 + 1/16).
struct Exact {
  std::vector<double> out, absorbed_bound, expanded_bound;
};

Exact attend_exactly(const MlaSpec& m, const MlaWeights& w, int head, const std::vector<double>& q,
                     const std::vector<std::vector<double>>& cached) {
  constexpr double u = 17.0 / 16 / 256;
  std::vector<double> scores, p, moved_absorbed{0}, moved_expanded{0};
  std::vector<double> latent_query(m.kv_rank, 0.0);
  for (int k = 0; k < m.kv_rank; ++k)
    for (int i = 0; i < m.nope_dim; ++i) latent_query[k] += weight(w.key_up[head], k, i) * q[i];
  std::vector<std::vector<double>> values;
  for (const std::vector<double>& c : cached) {
    double score = 0, absorbed = 0, expanded = 0;
    for (int i = 0; i < m.head_dim(); ++i) {
      double key = i < m.nope_dim ? 0.0 : c[m.kv_rank + i - m.nope_dim];
      for (int k = 0; i < m.nope_dim && k < m.kv_rank; ++k) key += weight(w.key_up[head], k, i) * c[k];
      score += q[i] * key;
      expanded += std::abs(q[i] * key);
    }
    for (int k = 0; k < m.kv_rank; ++k) absorbed += std::abs(latent_query[k] * c[k]);
    for (int i = 0; i < m.rope.dims; ++i) absorbed += std::abs(q[m.nope_dim + i] * c[m.kv_rank + i]);
    scores.push_back(score * m.scale);
    moved_absorbed.push_back(u * absorbed * m.scale);
    moved_expanded.push_back(u * expanded * m.scale);
    values.emplace_back(m.value_dim, 0.0);
    for (int v = 0; v < m.value_dim; ++v)
      for (int k = 0; k < m.kv_rank; ++k) values.back()[v] += weight(w.value_up[head], v, k) * c[k];
  }
  double sum = 0;
  for (double s : scores) p.push_back(std::exp(s - *std::max_element(scores.begin(), scores.end())));
  for (double x : p) sum += x;
  const auto growth = [&](const std::vector<double>& moved) {
    const double d = *std::max_element(moved.begin(), moved.end());
    return std::exp(2 * d) * (1 + u) / (1 - u) * (1 + u) * (1 + u) - 1;
  };
  Exact exact;
  for (int v = 0; v < m.value_dim; ++v) {
    double out = 0, absorbed = 0, expanded = 0;
    for (size_t j = 0; j < cached.size(); ++j) {
      out += p[j] / sum * values[j][v];
      expanded += p[j] / sum * std::abs(values[j][v]);
      for (int k = 0; k < m.kv_rank; ++k)
        absorbed += p[j] / sum * std::abs(weight(w.value_up[head], v, k) * cached[j][k]);
    }
    exact.out.push_back(out);
    exact.absorbed_bound.push_back(growth(moved_absorbed) * absorbed);
    exact.expanded_bound.push_back(growth(moved_expanded) * expanded);
  }
  return exact;
}

// What a form leaves before the output projection, (rows, heads * value_dim), without rotation.
std::vector<bf16> mixed(Machine& machine, int rows, int prompt) {
  Trunk& t = machine.trunk;
  t.batch.frequencies.assign(t.batch.frequencies.size(), 0.0);
  machine.begin(machine.plan({0, rows}, prompt));
  mix_mla(t, 0);
  const bf16* out = t.step.latent.out.at;
  return {out, out + rows * machine.config.mla.heads * machine.config.mla.value_dim};
}

void check_forms(const TestDevice& on) {
  constexpr int kRows = 256;
  Machine machine(tiny(0), "deepseek_v3", on);
  const MlaSpec& m = machine.config.mla;

  const std::vector<bf16> absorbed = mixed(machine, kRows, 0);
  const float* q = machine.trunk.step.latent.q.at;  // of the absorbed form, one block of rows
  const std::vector<bf16> expanded = mixed(machine, kRows, kRows);

  ASSERT_NE(absorbed, expanded);
  for (int row : {0, 1, 63, 200, 255})
    for (int head = 0; head < m.heads; ++head) {
      std::vector<std::vector<double>> cached;
      for (int j = 0; j <= row; ++j) {
        const int page = machine.plan({0, kRows}).blocks[j / kKvBlock];
        cached.push_back(
            Machine::doubles(machine.cache.pages(0).page(page) + j % kKvBlock * m.cached_dim(), m.cached_dim()));
      }
      std::vector<double> query;
      for (int i = 0; i < m.head_dim(); ++i)
        query.push_back(to_float(to_bf16(q[(row * m.heads + head) * m.head_dim() + i])));
      const Exact exact = attend_exactly(m, machine.weights.layers[0].mla, head, query, cached);

      for (int v = 0; v < m.value_dim; ++v) {
        const size_t at = (static_cast<size_t>(row) * m.heads + head) * m.value_dim + v;
        EXPECT_NEAR(to_float(absorbed[at]), exact.out[v], exact.absorbed_bound[v])
            << on.name() << ' ' << row << ' ' << v;
        EXPECT_NEAR(to_float(expanded[at]), exact.out[v], exact.expanded_bound[v])
            << on.name() << ' ' << row << ' ' << v;
      }
    }
}

TEST(Mla, BothFormsAreWithinTheirBoundsOfExactAttention) {
  for (const TestDevice& on : test_devices()) check_forms(on);
}

TEST(Mla, DevicesDoNotShow) {
  for (const int top_k : {0, 100}) {
    const ModelConfig config = tiny(top_k);
    const std::vector<float> expected = logits(config, 1, {{0, 500}}, 500);
    for (const TestDevice& on : test_devices())
      expect_same_bits(Machine(config, "deepseek_v3", on).logits({{0, 256}, {256, 244}}, 500), expected);
  }
}

TEST(Rope, IsPlainWithoutYarn) {
  const std::vector<double> f = rope_frequencies({.theta = 1e4, .dims = 8});

  for (int i = 0; i < 4; ++i) EXPECT_DOUBLE_EQ(f[i], std::pow(10.0, -i));
}

TEST(Rope, YarnKeepsFastPairsAndStretchesSlowOnes) {
  const RopeSpec plain{.theta = 1e4, .dims = 64};
  RopeSpec yarn = plain;
  yarn.yarn_factor = 40;
  yarn.original_context = 4096;
  const std::vector<double> before = rope_frequencies(plain), after = rope_frequencies(yarn);

  // DeepSeek-V3's numbers: the ramp runs from pair 10 to pair 23.
  for (int i = 0; i <= 10; ++i) EXPECT_DOUBLE_EQ(after[i], before[i]) << i;
  for (int i = 23; i < 32; ++i) EXPECT_DOUBLE_EQ(after[i], before[i] / 40) << i;
  const double ramp = (16.0 - 10) / (23 - 10);
  EXPECT_NEAR(after[16], before[16] * (1 - ramp + ramp / 40), 1e-12);
}

}  // namespace
}  // namespace kt
