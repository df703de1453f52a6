// Latent attention on one rank with generated weights: how rows are grouped into steps, blocks, runs and threads must
// not show in the bits. Equality with the published equations is checked on the tiny checkpoints (tests/e2e).

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "runtime/arch/arch.h"
#include "runtime/checkpoint/dummy.h"
#include "runtime/model/rope.h"
#include "runtime/model/trunk.h"

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

struct Chunk {
  int first, count;
};

// Logits of the last token of each chunk. Pages are handed out in a scrambled order.
std::vector<float> logits(const ModelConfig& config, int threads, const std::vector<Chunk>& chunks) {
  const std::vector<std::unique_ptr<Transport>> transports = make_local_transports(1);
  const Topology topology = plan_topology({.tensor_parallel = 1, .experts_per_node = -1}, 0, transports[0]->nodes());
  ThreadPool pool(threads);
  const KernelContext kernels{choose_ops(), pool};
  const std::unique_ptr<Checkpoint> checkpoint = dummy_checkpoint({});
  const Arch& arch = find_arch(nlohmann::json{{"model_type", "deepseek_v3"}});
  const TrunkShare share = trunk_share(config, 0, 1);
  const TrunkWeights weights = load_trunk(*checkpoint, arch, config, share, pool, -1);
  constexpr int kBlocks = 32;
  const TrunkLimits limits{.max_rows = 2048, .max_logit_rows = 4};
  StateCache cache(config, share, {.blocks = kBlocks, .slots = 1}, pool, -1);
  Trunk trunk =
      make_trunk(*transports[0], topology, kernels, *checkpoint, config, share, weights, nullptr, cache, limits, -1);
  std::vector<float> out;
  for (const Chunk& chunk : chunks) {
    StepPlan plan;
    plan.slices = {{.slot = 0, .first = chunk.first, .count = chunk.count, .logits_from = chunk.count - 1}};
    for (int i = 0; i < chunk.count; ++i) plan.tokens.push_back((chunk.first + i) * 37 % config.vocab);
    for (int i = 0; i < kBlocks; ++i) plan.blocks.push_back((i * 11 + 5) % kBlocks);
    plan.block_begin = {0, kBlocks};
    const float* row = forward(trunk, plan);
    out.assign(row, row + config.vocab);
  }
  return out;
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

TEST(Mla, AnIndexerThatKeepsEveryKeyChangesNothing) {
  const std::vector<float> all = logits(tiny(0), 2, kWhole);

  expect_same_bits(logits(tiny(1300), 2, kWhole), all);
  EXPECT_NE(logits(tiny(1299), 2, kWhole), all);
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
