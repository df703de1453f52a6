// Every table that this machine can run against `ref`, to the bit, on sizes 1, odd, and larger than a block.

#include "kernels/ops.h"

#include <gtest/gtest.h>
#include <xmmintrin.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/thread_pool.h"

namespace kt {
namespace {

const Ops& ref() { return *available_ops().front(); }

class EveryTable : public testing::TestWithParam<const Ops*> {
 protected:
  // Denormals are zero wherever kernels run.
  void SetUp() override {
    mode_ = _mm_getcsr();
    _mm_setcsr(mode_ | 0x8040);
  }
  void TearDown() override { _mm_setcsr(mode_); }
  const Ops& ops() const { return *GetParam(); }

  std::vector<float> floats(size_t n, float scale = 1.0f) {
    std::normal_distribution<float> normal(0.0f, scale);
    std::vector<float> v(n);
    for (float& x : v) x = normal(random_);
    return v;
  }
  std::vector<bf16> halves(size_t n, float scale = 1.0f) {
    std::vector<bf16> v(n);
    const std::vector<float> f = floats(n, scale);
    for (size_t i = 0; i < n; ++i) v[i] = to_bf16(f[i]);
    return v;
  }

  std::mt19937 random_{7};

 private:
  unsigned mode_ = 0;
};

struct Packed {
  std::vector<std::byte> storage;
  PackedMatrix matrix;
};
Packed pack(const std::vector<bf16>& w, int n, int k) {
  Packed p{{}, {.n = n, .k = k}};
  p.storage.resize(p.matrix.bytes() + 64);
  auto* data = p.storage.data();
  p.matrix.data = data;
  for (int i = 0; i < p.matrix.panels(); ++i)
    pack_panel_bf16(w.data() + static_cast<size_t>(i) * kPanel * k, k, std::min(kPanel, n - i * kPanel), k,
                    data + i * p.matrix.panel_bytes());
  return p;
}
std::vector<bf16> padded_rows(const std::vector<bf16>& x, int rows, int k) {
  const int64_t stride = round_up(k, kTileK);
  std::vector<bf16> out(static_cast<size_t>(rows * stride), 0);
  for (int i = 0; i < rows; ++i) std::memcpy(&out[i * stride], &x[static_cast<size_t>(i) * k], k * sizeof(bf16));
  return out;
}

template <class T>
void expect_same_bits(const std::vector<T>& found, const std::vector<T>& expected) {
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i)
    ASSERT_EQ(0, std::memcmp(&found[i], &expected[i], sizeof(T)))
        << "element " << i << ": " << +found[i] << ", expected " << +expected[i];
}

struct Shape {
  int rows, n, k;
};
const Shape kShapes[] = {{1, 16, 32},  {1, 1, 64},   {2, 40, 96},   {3, 33, 70},  {4, 64, 128}, {5, 64, 128},
                         {7, 48, 192}, {17, 80, 64}, {33, 32, 256}, {64, 16, 32}, {200, 48, 64}};

TEST_P(EveryTable, MatmulHasTheReferencesBits) {
  for (const Shape& s : kShapes) {
    const Packed w = pack(halves(static_cast<size_t>(s.n) * s.k, 0.1f), s.n, s.k);
    const auto x = padded_rows(halves(static_cast<size_t>(s.rows) * s.k), s.rows, s.k);
    const Rows rows{.data = x.data(), .stride = round_up(s.k, kTileK), .count = s.rows};
    const int64_t ldo = w.matrix.panels() * kPanel;
    std::vector<float> out(static_cast<size_t>(s.rows * ldo)), expected(out);

    ref().matmul(rows, w.matrix, 0, w.matrix.panels(), expected.data(), ldo);
    ops().matmul(rows, w.matrix, 0, w.matrix.panels(), out.data(), ldo);

    expect_same_bits(out, expected);
  }
}

TEST_P(EveryTable, MatmulIsCloseToFloat64) {
  const int rows = 6, n = 32, k = 192;
  const auto w = halves(n * k), x = halves(rows * k);
  const Packed packed = pack(w, n, k);
  std::vector<float> out(rows * n);

  ops().matmul({.data = x.data(), .stride = k, .count = rows}, packed.matrix, 0, n / kPanel, out.data(), n);

  for (int i = 0; i < rows; ++i)
    for (int j = 0; j < n; ++j) {
      double sum = 0, size = 0;
      for (int c = 0; c < k; ++c) {
        const double p = static_cast<double>(to_float(x[i * k + c])) * to_float(w[j * k + c]);
        sum += p;
        size += std::abs(p);
      }
      // A chain rounds once per product and once per tile: at most 16 + 1 + k/32 roundings touch a term.
      EXPECT_NEAR(out[i * n + j], sum, (17 + k / 32) * std::ldexp(size, -24));
    }
}

TEST_P(EveryTable, RowsDoNotDependOnTheirNeighbours) {
  const int rows = 70, n = 64, k = 160;
  const Packed w = pack(halves(n * k), n, k);
  const auto x = halves(rows * k);
  std::vector<float> together(rows * n), alone(n);

  ops().matmul({.data = x.data(), .stride = k, .count = rows}, w.matrix, 0, n / kPanel, together.data(), n);

  for (int i = 0; i < rows; ++i) {
    ops().matmul({.data = x.data() + i * k, .stride = k, .count = 1}, w.matrix, 0, n / kPanel, alone.data(), n);
    EXPECT_EQ(0, std::memcmp(alone.data(), &together[i * n], n * sizeof(float))) << "row " << i;
  }
}

TEST_P(EveryTable, SwigluHasTheReferencesBits) {
  for (const Shape& s : kShapes) {
    const int pairs = static_cast<int>(ceil_div(s.n, kPanel));
    const Packed w = pack(halves(static_cast<size_t>(pairs) * 32 * s.k, 0.3f), pairs * 32, s.k);
    const auto x = padded_rows(halves(static_cast<size_t>(s.rows) * s.k), s.rows, s.k);
    const Rows rows{.data = x.data(), .stride = round_up(s.k, kTileK), .count = s.rows};
    std::vector<bf16> out(static_cast<size_t>(s.rows) * pairs * kPanel), expected(out);

    ref().swiglu(rows, w.matrix, 0, pairs, expected.data(), pairs * kPanel);
    ops().swiglu(rows, w.matrix, 0, pairs, out.data(), pairs * kPanel);

    expect_same_bits(out, expected);
  }
}

TEST_P(EveryTable, MatmulAddGathersScattersAndScalesLikeTheReference) {
  for (const Shape& s : kShapes) {
    const Packed w = pack(halves(static_cast<size_t>(s.n) * s.k), s.n, s.k);
    const auto x = padded_rows(halves(static_cast<size_t>(s.rows) * s.k), s.rows, s.k);
    const auto scale = floats(s.rows);
    std::vector<int32_t> from(s.rows), to(s.rows);
    for (int i = 0; i < s.rows; ++i) from[i] = (i * 7 + 3) % s.rows, to[i] = s.rows - 1 - i;
    const Rows rows{.data = x.data(), .stride = round_up(s.k, kTileK), .count = s.rows, .index = from.data()};
    const int64_t ldo = w.matrix.panels() * kPanel;
    std::vector<double> out(static_cast<size_t>(s.rows * ldo), 0.25), expected(out);

    ref().matmul_add(rows, w.matrix, 32, 0, w.matrix.panels(), scale.data(), expected.data(), ldo, to.data());
    ops().matmul_add(rows, w.matrix, 32, 0, w.matrix.panels(), scale.data(), out.data(), ldo, to.data());

    expect_same_bits(out, expected);
  }
}

TEST_P(EveryTable, SlicesAddUpToTheSameBitsInAnyGrouping) {
  const int rows = 9, n = 48, k = 256;
  const auto w = halves(n * k), x = halves(rows * k);
  const Packed whole = pack(w, n, k);
  std::vector<double> one(rows * n, 0.0), cut(rows * n, 0.0);
  ops().matmul_add({.data = x.data(), .stride = k, .count = rows}, whole.matrix, 64, 0, n / kPanel, nullptr, one.data(),
                   n, nullptr);

  for (auto [from, to] : {std::pair{192, 256}, {0, 64}, {64, 192}}) {  // three ranks' shares, last one first
    std::vector<bf16> part;
    for (int r = 0; r < n; ++r) part.insert(part.end(), &w[r * k + from], &w[r * k] + to);
    const Packed p = pack(part, n, to - from);
    std::vector<double> sum(rows * n, 0.0);
    ops().matmul_add({.data = x.data() + from, .stride = k, .count = rows}, p.matrix, 64, 0, n / kPanel, nullptr,
                     sum.data(), n, nullptr);
    for (size_t i = 0; i < sum.size(); ++i) cut[i] += sum[i];
  }

  expect_same_bits(cut, one);
}

TEST_P(EveryTable, NormsHaveTheReferencesBits) {
  for (int n : {16, 48, 64, 256, 576}) {
    const auto x = floats(n), w = floats(n), z = floats(n, 3.0f);
    std::vector<bf16> out(round_up(n, 32)), expected(out);
    ref().rms_norm(x.data(), w.data(), 1e-6f, n, expected.data());
    ops().rms_norm(x.data(), w.data(), 1e-6f, n, out.data());
    expect_same_bits(out, expected);
    ref().gated_norm(x.data(), w.data(), z.data(), 1e-6f, n, expected.data());
    ops().gated_norm(x.data(), w.data(), z.data(), 1e-6f, n, out.data());
    expect_same_bits(out, expected);
    ref().gate_output(x.data(), z.data(), n, expected.data());
    ops().gate_output(x.data(), z.data(), n, out.data());
    expect_same_bits(out, expected);
    std::vector<float> a = x, b = x;
    ref().head_norm(b.data(), w.data(), 1e-6f, n);
    ops().head_norm(a.data(), w.data(), 1e-6f, n);
    expect_same_bits(a, b);
    ref().l2_norm(b.data(), 1e-6f, 0.125f, n);
    ops().l2_norm(a.data(), 1e-6f, 0.125f, n);
    expect_same_bits(a, b);
    ref().sigmoid(z.data(), n, b.data());
    ops().sigmoid(z.data(), n, a.data());
    expect_same_bits(a, b);
  }
  const auto x = floats(50), w = floats(50);  // not a multiple of 16: the row norm pads
  std::vector<bf16> out(64, 1), expected(64, 1);
  ref().rms_norm(x.data(), w.data(), 1e-6f, 50, expected.data());
  ops().rms_norm(x.data(), w.data(), 1e-6f, 50, out.data());
  expect_same_bits(out, expected);
  EXPECT_EQ(out[63], 0);
}

TEST_P(EveryTable, RopeHasTheReferencesBits) {
  const auto x = floats(64), c = floats(32), s = floats(32);
  std::vector<float> a = x, b = x;
  ref().rope(b.data(), c.data(), s.data(), 32);
  ops().rope(a.data(), c.data(), s.data(), 32);
  expect_same_bits(a, b);
}

TEST_P(EveryTable, SigmoidIsAccurate) {
  for (float x = -80.0f; x <= 80.0f; x += 0.37f) {
    float y = 0;
    ops().sigmoid(&x, 1, &y);
    const double exact = 1.0 / (1.0 + std::exp(-static_cast<double>(x)));
    EXPECT_NEAR(y, exact, 5 * exact * std::ldexp(1.0, -23) + 1.2e-38) << x;
  }
}

TEST_P(EveryTable, AttentionOverPagesHasTheReferencesBitsForAnySplitOfTheQueries) {
  const int d = 64, group = 3, tokens = 11, first = 640;  // two spans, the second one partly seen
  const int pages = (first + tokens + kKvBlock - 1) / kKvBlock;
  std::vector<bf16> cache(static_cast<size_t>(pages) * kv_page_elements(d));
  std::vector<int32_t> blocks(pages);
  for (int i = 0; i < pages; ++i) blocks[i] = (i * 5 + 2) % pages;
  for (int t = 0; t < first + tokens; ++t) {
    const auto k = floats(d), v = floats(d);
    ops().store_kv(k.data(), v.data(), d, t % kKvBlock, &cache[blocks[t / kKvBlock] * kv_page_elements(d)]);
  }
  const auto q = floats(static_cast<size_t>(tokens) * group * d);
  const AttentionJob job{.q = q.data(),
                         .q_stride = group * d,
                         .first = first,
                         .group = group,
                         .head_dim = d,
                         .scale = 0.125f,
                         .pages = cache.data(),
                         .page_stride = kv_page_elements(d),
                         .blocks = blocks.data()};
  const int queries = tokens * group;
  auto run = [&](const Ops& o, int step) {
    std::vector<SoftmaxState> state(queries), part(queries);
    std::vector<float> out(static_cast<size_t>(queries) * d), values(out);
    for (int i = 0; i < queries; i += step) {
      const int end = std::min(queries, i + step);
      o.attend(job, i, end, 0, state.data(), out.data());
      o.attend(job, i, end, 1, part.data(), values.data());
      for (int j = i; j < end; ++j) o.merge(state[j], &out[j * d], part[j], &values[j * d], d);
    }
    for (int i = 0; i < queries; ++i) out.push_back(state[i].sum);
    return out;
  };

  const auto expected = run(ref(), queries);

  expect_same_bits(run(ops(), queries), expected);
  expect_same_bits(run(ops(), 1), expected);
  expect_same_bits(run(ops(), 5), expected);
}

TEST_P(EveryTable, ConvolutionContinuesAcrossChunks) {
  const int taps = 4, channels = 32, tokens = 9;
  const auto x = floats(tokens * channels), w = floats(taps * channels), h = floats((taps - 1) * channels);
  std::vector<float> history = h, expected(tokens * channels), out(expected);
  ref().conv_silu(x.data(), channels, history.data(), w.data(), taps, channels, tokens, 0, channels, expected.data(),
                  channels);

  std::vector<float> own = h;
  for (auto [from, count] : {std::pair{0, 1}, {1, 2}, {3, 6}})
    ops().conv_silu(&x[from * channels], channels, own.data(), w.data(), taps, channels, count, 0, channels,
                    &out[from * channels], channels);

  expect_same_bits(out, expected);
  expect_same_bits(own, history);
}

TEST_P(EveryTable, DeltaRuleHasTheReferencesBitsForAnySplitOfColumns) {
  const int dk = 48, dv = 80, tokens = 5;
  auto q = floats(tokens * dk, 0.2f), k = floats(tokens * dk, 0.2f), v = floats(tokens * dv), s = floats(dk * dv);
  std::vector<float> alpha{0.9f, 0.5f, 1.0f, 0.99f, 0.7f}, beta{0.1f, 0.9f, 0.5f, 0.3f, 1.0f};
  auto run = [&](const Ops& o, std::vector<std::pair<int, int>> parts) {
    std::vector<float> state = s, out(tokens * dv);
    for (auto [c, n] : parts)
      o.delta_rule({.q = q.data(),
                    .k = k.data(),
                    .qk_stride = dk,
                    .v = v.data(),
                    .v_stride = dv,
                    .alpha = alpha.data(),
                    .beta = beta.data(),
                    .gate_stride = 1,
                    .tokens = tokens,
                    .key_dim = dk,
                    .value_dim = dv,
                    .state = state.data(),
                    .out = out.data(),
                    .out_stride = dv},
                   c, n);
    out.insert(out.end(), state.begin(), state.end());
    return out;
  };

  const auto expected = run(ref(), {{0, dv}});

  expect_same_bits(run(ops(), {{0, dv}}), expected);
  expect_same_bits(run(ops(), {{16, 64}, {0, 16}}), expected);
}

TEST_P(EveryTable, TopKPrefersTheLowerIndexAndMatchesTheReference) {
  std::vector<float> logits = floats(70);
  logits[3] = logits[60] = logits[11] = 9.0f;
  for (bool normalise : {false, true}) {
    std::vector<int32_t> ids(10), expected_ids(10);
    std::vector<float> w(10), expected_w(10);
    ref().softmax_top_k(logits.data(), 70, 10, normalise, expected_ids.data(), expected_w.data());
    ops().softmax_top_k(logits.data(), 70, 10, normalise, ids.data(), w.data());
    EXPECT_EQ(ids, expected_ids);
    expect_same_bits(w, expected_w);
    EXPECT_EQ(std::vector<int32_t>(ids.begin(), ids.begin() + 3), (std::vector<int32_t>{3, 11, 60}));
  }
}

INSTANTIATE_TEST_SUITE_P(, EveryTable, testing::ValuesIn(available_ops().begin(), available_ops().end()),
                         [](const auto& table) {
                           std::string name(table.param->name);
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(ThreadPool, RunsEveryPartOnceJobAfterJob) {
  for (int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    for (int job = 0; job < 200; ++job) {
      std::vector<std::atomic<int>> hits(job % 7 * 10 + 1);
      pool.run(static_cast<int64_t>(hits.size()), [&](int64_t i) { hits[i]++; });
      for (auto& h : hits) ASSERT_EQ(h, 1);
    }
  }
}

TEST(Numeric, Bf16RoundsToNearestEvenAndKeepsNan) {
  EXPECT_EQ(to_bf16(1.0f), 0x3f80);
  EXPECT_EQ(to_bf16(std::bit_cast<float>(0x3f808000u)), 0x3f80);
  EXPECT_EQ(to_bf16(std::bit_cast<float>(0x3f818000u)), 0x3f82);
  EXPECT_TRUE(std::isnan(to_float(to_bf16(std::nanf("")))));
  EXPECT_TRUE(std::isinf(to_float(to_bf16(3.4e38f))));
}

}  // namespace
}  // namespace kt
