// What latent attention, its sparse selection and sigmoid routing add: every table against `ref`, to the bit.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/ops.h"
#include "kernels/top_keys.h"
#include "tests/kernels/on_table.h"

namespace kt {
namespace {

class MlaOps : public OnTable {
 protected:
  MlaOps() : OnTable(11) {}
};

TEST_P(MlaOps, RotatesNeighbouringPairs) {
  const std::vector<float> x = floats(32), c = floats(16), s = floats(16);
  std::vector<float> a = x, b = x;

  ref().rope_pairs(b.data(), c.data(), s.data(), 16);
  ops().rope_pairs(a.data(), c.data(), s.data(), 16);

  expect_same_bits(a, b);
  EXPECT_NEAR(a[6], x[6] * c[3] - x[7] * s[3], 1e-5f);
  EXPECT_NEAR(a[7], x[7] * c[3] + x[6] * s[3], 1e-5f);
}

TEST_P(MlaOps, LayerNormSubtractsTheMeanAndAddsTheBias) {
  for (int n : {16, 48, 128}) {
    std::vector<float> x = floats(n), w = floats(n), b = floats(n);
    for (float& v : x) v += 3.0f;
    std::vector<float> found = x, expected = x;

    ref().layer_norm(expected.data(), w.data(), b.data(), 1e-6f, n);
    ops().layer_norm(found.data(), w.data(), b.data(), 1e-6f, n);

    expect_same_bits(found, expected);
    const double mean = std::accumulate(x.begin(), x.end(), 0.0) / n;
    double variance = 0;
    for (float v : x) variance += (v - mean) * (v - mean) / n;
    // |x| <= 8 with a mean of 3: a few roundings of values of that size over a deviation of about one.
    for (int i = 0; i < n; ++i)
      EXPECT_NEAR(found[i], (x[i] - mean) / std::sqrt(variance + 1e-6) * w[i] + b[i], 1e-5 * (1 + std::abs(w[i])));
  }
}

// Packing moves values only: products with packed rows are checked against plain sums in double.
TEST_P(MlaOps, PacksRowsFromAnywhereAsWeights) {
  for (auto [count, columns] : {std::pair{1, 32}, {15, 64}, {16, 96}, {33, 160}, {512, 64}}) {
    const std::vector<bf16> pool = halves(static_cast<size_t>(count + 7) * columns);
    std::vector<const bf16*> rows(count);
    for (int i = 0; i < count; ++i) rows[i] = &pool[static_cast<size_t>((i * 5 + 3) % (count + 7)) * columns];
    std::vector<bf16> by_row(round_up(count, kPanel) * columns, 1), by_row_ref(by_row);
    std::vector<bf16> by_column(round_up(count, kTileK) * columns, 1), by_column_ref(by_column);

    ref().pack_rows(rows.data(), count, columns, by_row_ref.data());
    ops().pack_rows(rows.data(), count, columns, by_row.data());
    ref().pack_columns(rows.data(), count, columns, by_column_ref.data());
    ops().pack_columns(rows.data(), count, columns, by_column.data());

    expect_same_bits(by_row, by_row_ref);
    expect_same_bits(by_column, by_column_ref);
    const std::vector<bf16> x = halves(columns), p = halves(round_up(count, kTileK));
    std::vector<float> dots(round_up(count, kPanel)), sums(columns);
    ops().matmul({.data = x.data(), .stride = columns, .count = 1},
                 {.n = count, .k = columns, .data = reinterpret_cast<const std::byte*>(by_row.data())}, 0,
                 static_cast<int>(ceil_div(count, kPanel)), dots.data(), round_up(count, kPanel));
    ops().matmul({.data = p.data(), .stride = round_up(count, kTileK), .count = 1},
                 {.n = columns, .k = count, .data = reinterpret_cast<const std::byte*>(by_column.data())}, 0,
                 columns / kPanel, sums.data(), columns);
    for (int i = 0; i < count; ++i) {
      double dot = 0;
      for (int c = 0; c < columns; ++c) dot += static_cast<double>(to_float(x[c])) * to_float(rows[i][c]);
      EXPECT_NEAR(dots[i], dot, 1e-4) << count << " rows, row " << i;
    }
    for (int c = 0; c < columns; ++c) {
      double sum = 0;
      for (int i = 0; i < count; ++i) sum += static_cast<double>(to_float(p[i])) * to_float(rows[i][c]);
      EXPECT_NEAR(sums[c], sum, 1e-3) << count << " rows, column " << c;
    }
  }
}

TEST_P(MlaOps, SoftmaxWeighsWhatIsVisibleAndNothingElse) {
  const std::vector<float> scores = floats(128, 4.0f);
  for (auto [count, padded] : {std::pair{0, 5}, {1, 1}, {5, 40}, {16, 16}, {63, 64}, {64, 100}, {100, 100}}) {
    std::vector<bf16> found(160, 7), expected(160, 7);

    const SoftmaxState a = ops().softmax_row(scores.data(), 0.3f, count, padded, found.data());
    const SoftmaxState b = ref().softmax_row(scores.data(), 0.3f, count, padded, expected.data());

    expect_same_bits(found, expected);
    expect_same_bits(std::vector{a.max, a.sum}, std::vector{b.max, b.sum});
    double sum = 0;
    for (int i = 0; i < round_up(padded, kTileK); ++i) sum += to_float(found[i]);
    EXPECT_NEAR(a.sum, sum, 1e-5 * sum);
    for (int i = count; i < round_up(padded, kTileK); ++i) EXPECT_EQ(found[i], 0);
    if (count) {
      EXPECT_EQ(*std::max_element(found.begin(), found.begin() + count), to_bf16(1.0f));
    }
    EXPECT_EQ(found[round_up(padded, kTileK)], 7) << "wrote beyond its end";
  }
}

TEST_P(MlaOps, IndexScoresWeighPositiveDotsOnly) {
  const int heads = 5, n = 48, ld = 64;
  const std::vector<float> dots = floats(heads * ld), weights = floats(heads);
  std::vector<float> found(n), expected(n);

  ref().index_scores(dots.data(), ld, weights.data(), heads, n, expected.data());
  ops().index_scores(dots.data(), ld, weights.data(), heads, n, found.data());

  expect_same_bits(found, expected);
  for (int i = 0; i < n; ++i) {
    double sum = 0;
    for (int h = 0; h < heads; ++h) sum += weights[h] * std::max(0.0, static_cast<double>(dots[h * ld + i]));
    EXPECT_NEAR(found[i], sum, 1e-5);
  }
}

struct Routed {
  std::vector<int32_t> ids;
  std::vector<float> weights;
};
Routed route(const Ops& ops, std::vector<float> logits, const SigmoidRouting& r) {
  Routed out{std::vector<int32_t>(r.top_k), std::vector<float>(r.top_k)};
  ops.sigmoid_top_k(logits.data(), r, out.ids.data(), out.weights.data());
  return out;
}

TEST_P(MlaOps, SigmoidRoutingHasTheReferencesBits) {
  for (int groups : {1, 4, 8}) {
    const std::vector<float> bias = floats(72, 0.3f);
    const SigmoidRouting r{.bias = bias.data(),
                           .experts = 72,
                           .top_k = 6,
                           .groups = groups,
                           .kept_groups = (groups + 1) / 2,
                           .normalise = groups != 4,
                           .scale = 2.5f};
    for (int i = 0; i < 50; ++i) {
      const std::vector<float> logits = floats(72);
      const Routed found = route(ops(), logits, r), expected = route(ref(), logits, r);
      EXPECT_EQ(found.ids, expected.ids);
      expect_same_bits(found.weights, expected.weights);
    }
  }
}

TEST_P(MlaOps, SigmoidRoutingPicksByBiasAndWeighsWithout) {
  const std::vector<float> logits = {0.0f, 1.0f, 2.0f, -1.0f, 3.0f, 0.5f, 0.0f, 0.0f};
  const std::vector<float> bias = {9.0f, 0, 0, 0, 0, 0, 0, 0};
  const Routed r = route(
      ops(), logits,
      {.bias = bias.data(), .experts = 8, .top_k = 2, .groups = 1, .kept_groups = 1, .normalise = true, .scale = 2.0f});

  EXPECT_THAT(r.ids, testing::ElementsAre(0, 4));
  const double a = 0.5, b = 1 / (1 + std::exp(-3.0));
  EXPECT_NEAR(r.weights[0], 2 * a / (a + b), 1e-6);
  EXPECT_NEAR(r.weights[1], 2 * b / (a + b), 1e-6);
}

TEST_P(MlaOps, SigmoidRoutingKeepsTheGroupsWithTheBestTwo) {
  // Group 1 has the single best expert, groups 0 and 2 the better pairs; ties go to the lower expert.
  const std::vector<float> logits = {1.0f, 1.0f, -4.0f, 2.5f, -9.0f, -9.0f, 0.5f, 1.5f, 0.0f};
  const std::vector<float> bias(9, 0.0f);
  const Routed r = route(ops(), logits,
                         {.bias = bias.data(),
                          .experts = 9,
                          .top_k = 4,
                          .groups = 3,
                          .kept_groups = 2,
                          .normalise = false,
                          .scale = 1.0f});

  EXPECT_THAT(r.ids, testing::ElementsAre(7, 0, 1, 6));
}

INSTANTIATE_TEST_SUITE_P(, MlaOps, every_table(), table_name);

std::vector<int32_t> top(const std::vector<float>& scores, int k) {
  std::vector<int32_t> out(k, -1);
  std::vector<uint32_t> room(scores.size());
  top_keys(scores.data(), static_cast<int>(scores.size()), k, out.data(), room.data());
  return out;
}

TEST(TopKeys, TakesTheLowerPositionOfEqualsAndAscends) {
  EXPECT_THAT(top({1.0f, 3.0f, 3.0f, 2.0f, 3.0f}, 2), testing::ElementsAre(1, 2));
  EXPECT_THAT(top({1.0f, 3.0f, 3.0f, 2.0f, 3.0f}, 4), testing::ElementsAre(1, 2, 3, 4));
  EXPECT_THAT(top({-0.0f, 0.0f, -1.0f}, 1), testing::ElementsAre(0));
  EXPECT_THAT(top({0.0f, -0.0f, -1.0f, 0.0f}, 2), testing::ElementsAre(0, 1));
  EXPECT_THAT(top({-3.0f, -1.0f, -2.0f}, 3), testing::ElementsAre(0, 1, 2));
  const float nan = std::nanf("");
  EXPECT_THAT(top({1.0f, nan, 2.0f, nan, nan}, 2), testing::ElementsAre(1, 3));
  EXPECT_THAT(top({1.0f, -nan, 2.0f, nan}, 3), testing::ElementsAre(0, 2, 3));
}

TEST(TopKeys, AgreesWithAStableSort) {
  std::mt19937 random(5);
  for (int n : {1, 17, 300, 5000})
    for (int k : {1, n / 3 + 1, n}) {
      std::vector<float> scores(n);
      for (float& s : scores) s = std::round(std::normal_distribution<float>(0.0f, 40.0f)(random)) / 8;  // many ties
      std::vector<int32_t> order(n);
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return scores[a] > scores[b]; });
      order.resize(k);
      std::sort(order.begin(), order.end());
      EXPECT_EQ(top(scores, k), order) << n << " scores, " << k;
    }
}

}  // namespace
}  // namespace kt
