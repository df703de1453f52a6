// Every table that this machine can run against `ref`, to the bit, on sizes 1, odd, and larger than a block.

#include "kernels/ops.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/format/amxint.h"
#include "kernels/format/bf16.h"
#include "kernels/format/fp8.h"
#include "kernels/format/rawint4.h"
#include "kernels/thread_pool.h"
#include "tests/kernels/on_table.h"

namespace kt {
namespace {

class EveryTable : public OnTable {
 protected:
  EveryTable() : OnTable(7) {}
};

struct Packed {
  std::vector<std::byte> storage;
  PackedMatrix matrix;
};
// A matrix of the format near the given values; what it stores exactly is up to the format's own packing.
Packed pack(const std::vector<bf16>& w, int n, int k, Format format = Format::BF16, int group_tiles = -1) {
  if (group_tiles < 0) group_tiles = info(format).max_group_tiles;
  Packed p{{}, {.format = format, .n = n, .k = k, .group_tiles = group_tiles}};
  PackedMatrix& m = p.matrix;
  p.storage.resize(m.bytes() + 64);
  m.data = p.storage.data() + (64 - reinterpret_cast<uintptr_t>(p.storage.data()) % 64) % 64;
  std::vector<float> wide(w.size());
  for (size_t i = 0; i < w.size(); ++i) wide[i] = to_float(w[i]);
  for (int i = 0; i < m.panels(); ++i) {
    const int count = std::min(kPanel, n - i * kPanel);
    const bf16* rows = &w[static_cast<size_t>(i) * kPanel * k];
    const float* wide_rows = &wide[static_cast<size_t>(i) * kPanel * k];
    auto* panel = const_cast<std::byte*>(m.panel(i));
    switch (format) {
      case Format::BF16: Bf16Format::pack(rows, k, count, k, panel); break;
      case Format::FP8: {  // the values' bits serve as random bytes
        std::vector<uint8_t> bytes(static_cast<size_t>(count) * k);
        for (size_t b = 0; b < bytes.size(); ++b) bytes[b] = static_cast<uint8_t>(rows[b] * 37 >> 3);
        Fp8Format::pack(
            bytes.data(), k, count, m, [](int g) { return 0.01f + 0.003f * static_cast<float>(g); }, panel);
        break;
      }
      case Format::RAWINT4: {
        std::vector<std::byte> words(static_cast<size_t>(count) * k / 2 + 8);
        for (size_t b = 0; b < words.size(); ++b)
          words[b] = static_cast<std::byte>(rows[b % (static_cast<size_t>(count) * k)] * 29 >> 2);
        std::vector<bf16> scales(static_cast<size_t>(count) * m.groups());
        for (size_t g = 0; g < scales.size(); ++g) scales[g] = to_bf16(0.01f * static_cast<float>(g % 7 + 1));
        RawInt4Format::pack(words.data(), k / 2, scales.data(), m.groups(), count, m, panel);
        break;
      }
      case Format::AMXINT4: AmxInt4Format::pack(wide_rows, k, count, m, panel); break;
      case Format::AMXINT8: AmxInt8Format::pack(wide_rows, k, count, m, panel); break;
    }
  }
  return p;
}

// Rows and their quantised form.
struct Inputs {
  std::vector<bf16> rows;
  std::vector<int8_t> q;
  std::vector<QuantGroup> groups;
  Rows view;
};
std::vector<bf16> padded_rows(const std::vector<bf16>& x, int rows, int k) {
  const int64_t stride = round_up(k, kTileK);
  std::vector<bf16> out(static_cast<size_t>(rows * stride), 0);
  for (int i = 0; i < rows; ++i) std::memcpy(&out[i * stride], &x[static_cast<size_t>(i) * k], k * sizeof(bf16));
  return out;
}

Inputs inputs(const std::vector<bf16>& x, int rows, int k, int group_tiles) {
  const int tiles = static_cast<int>(ceil_div(k, kTileK)),
            groups = group_tiles ? static_cast<int>(ceil_div(tiles, group_tiles)) : 0;
  const int64_t stride = tiles * kTileK;
  Inputs in{padded_rows(x, rows, k),
            std::vector<int8_t>(rows * stride),
            std::vector<QuantGroup>(static_cast<size_t>(rows) * groups),
            {}};
  if (group_tiles)
    for (int i = 0; i < rows; ++i)
      ref().quantize(&in.rows[i * stride], tiles, group_tiles, &in.q[i * stride],
                     &in.groups[static_cast<size_t>(i) * groups]);
  in.view = {.data = in.rows.data(),
             .stride = stride,
             .count = rows,
             .q = in.q.data(),
             .q_stride = stride,
             .groups = in.groups.data(),
             .group_stride = groups};
  return in;
}

struct Shape {
  int rows, n, k;
};
const Shape kShapes[] = {{1, 16, 32},  {1, 1, 64},   {2, 40, 96},   {3, 33, 70},  {4, 64, 128},  {5, 64, 128},
                         {7, 48, 192}, {17, 80, 64}, {33, 32, 256}, {64, 16, 32}, {200, 48, 64}, {40, 32, 2048}};

constexpr Format kAllFormats[] = {Format::BF16, Format::FP8, Format::RAWINT4, Format::AMXINT4, Format::AMXINT8};

TEST_P(EveryTable, MatmulHasTheReferencesBitsInEveryFormat) {
  for (const Format format : kAllFormats)
    for (Shape s : kShapes) {
      s.k = static_cast<int>(round_up(s.k, 32));
      for (const int group : {1, 2, 4}) {
        if (group > info(format).max_group_tiles) continue;
        SCOPED_TRACE(testing::Message() << info(format).name << " group " << group << ": " << s.rows << " x " << s.n
                                        << " x " << s.k);
        const Packed w = pack(halves(static_cast<size_t>(s.n) * s.k, 0.1f), s.n, s.k, format, group);
        const Inputs x = inputs(halves(static_cast<size_t>(s.rows) * s.k), s.rows, s.k, group);
        const int64_t ldo = w.matrix.panels() * kPanel;
        std::vector<float> out(static_cast<size_t>(s.rows * ldo)), expected(out);

        ref().matmul(x.view, w.matrix, 0, w.matrix.panels(), expected.data(), ldo);
        ops().matmul(x.view, w.matrix, 0, w.matrix.panels(), out.data(), ldo);

        expect_same_bits(out, expected);
        if (HasFatalFailure()) return;
      }
    }
}

// The range that kernels/format/rawint4.h gives.
TEST_P(EveryTable, RawInt4HasTheReferencesBitsForTheSmallestAndLargestInputs) {
  const int n = 32, k = 256;
  const Packed w = pack(halves(static_cast<size_t>(n) * k, 0.1f), n, k, Format::RAWINT4);
  for (const int exponent : {-119, 89})
    for (const int rows : {1, 2, 5, 12}) {
      SCOPED_TRACE(testing::Message() << "inputs of 2^" << exponent << ", " << rows << " rows");
      std::vector<bf16> x(static_cast<size_t>(rows) * k);
      for (bf16& v : x) {
        v = to_bf16(std::ldexp(1.0f + static_cast<float>(random_() % 128) / 128, exponent));
        if (random_() % 2) v ^= 0x8000;
        if (random_() % 8 == 0) v = 0;
      }
      std::vector<float> out(static_cast<size_t>(rows) * n), expected(out);
      const Inputs in = inputs(x, rows, k, 1);

      ref().matmul(in.view, w.matrix, 0, w.matrix.panels(), expected.data(), n);
      ops().matmul(in.view, w.matrix, 0, w.matrix.panels(), out.data(), n);

      expect_same_bits(out, expected);
    }
}

TEST_P(EveryTable, EveryFp8CodeHasItsValueAtEveryPlace) {
  const int n = kPanel, k = kTileK;
  PackedMatrix m{.format = Format::FP8, .n = n, .k = k, .group_tiles = 1};
  std::vector<std::byte> storage(m.bytes() + 64);
  m.data = storage.data() + (64 - reinterpret_cast<uintptr_t>(storage.data()) % 64) % 64;
  std::vector<bf16> unit(static_cast<size_t>(k) * k);  // row r picks input r
  for (int r = 0; r < k; ++r) unit[static_cast<size_t>(r) * k + r] = to_bf16(1.0f);
  for (int shift = 0; shift < 256; ++shift) {
    std::vector<uint8_t> codes(static_cast<size_t>(n) * k);
    for (size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<uint8_t>(i + static_cast<size_t>(shift));
    Fp8Format::pack(
        codes.data(), k, n, m, [](int) { return 1.0f; }, const_cast<std::byte*>(m.data));
    for (int rows : {1, k}) {
      std::vector<float> out(static_cast<size_t>(rows) * n);
      ops().matmul({.data = unit.data(), .stride = k, .count = rows}, m, 0, 1, out.data(), n);
      for (int r = 0; r < rows; ++r)
        for (int c = 0; c < n; ++c)
          ASSERT_EQ(out[static_cast<size_t>(r) * n + c], Fp8Format::value(codes[static_cast<size_t>(c) * k + r]))
              << "code " << int{codes[static_cast<size_t>(c) * k + r]} << ", input " << r << ", output " << c;
    }
  }
}

TEST_P(EveryTable, QuantizesLikeTheReference) {
  for (int group : {1, 2, 4}) {
    auto x = halves(10 * 32, 3.0f);
    std::fill(x.begin() + 64, x.begin() + 256, 0);  // groups of zeros
    std::vector<int8_t> q(x.size()), expected_q(x.size());
    std::vector<QuantGroup> groups(10), expected(10);
    ref().quantize(x.data(), 10, group, expected_q.data(), expected.data());
    ops().quantize(x.data(), 10, group, q.data(), groups.data());
    expect_same_bits(q, expected_q);
    for (int g = 0; g * group < 10; ++g) {
      EXPECT_EQ(groups[g].scale, expected[g].scale);
      EXPECT_EQ(groups[g].sum, expected[g].sum);
    }
  }
}

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

TEST_P(EveryTable, MatmulAddGathersScattersAndScalesLikeTheReferenceInEveryFormat) {
  for (const Format format : kAllFormats)
    for (Shape s : kShapes) {
      s.k = static_cast<int>(round_up(s.k, 64));
      const int slice = 64, group = std::min(2, info(format).max_group_tiles);
      SCOPED_TRACE(testing::Message() << info(format).name << ": " << s.rows << " x " << s.n << " x " << s.k);
      const Packed w = pack(halves(static_cast<size_t>(s.n) * s.k), s.n, s.k, format, group);
      Inputs x = inputs(halves(static_cast<size_t>(s.rows) * s.k), s.rows, s.k, group);
      const auto scale = floats(s.rows);
      std::vector<int32_t> from(s.rows), to(s.rows);
      for (int i = 0; i < s.rows; ++i) from[i] = (i * 7 + 3) % s.rows, to[i] = s.rows - 1 - i;
      x.view.index = from.data();
      const int64_t ldo = w.matrix.panels() * kPanel;
      std::vector<double> out(static_cast<size_t>(s.rows * ldo), 0.25), expected(out);

      ref().matmul_add(x.view, w.matrix, slice, 0, w.matrix.panels(), scale.data(), expected.data(), ldo, to.data());
      ops().matmul_add(x.view, w.matrix, slice, 0, w.matrix.panels(), scale.data(), out.data(), ldo, to.data());

      expect_same_bits(out, expected);
      if (HasFatalFailure()) return;
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

INSTANTIATE_TEST_SUITE_P(, EveryTable, every_table(), table_name);

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

// Relative error of y = W x against float64, for weights and inputs from a normal distribution.
double relative_error(Format format, int n, int k, float outlier) {
  std::mt19937 random(11);
  std::normal_distribution<float> normal;
  std::vector<bf16> w(static_cast<size_t>(n) * k), x(k);
  for (size_t i = 0; i < w.size(); ++i) w[i] = to_bf16(0.02f * normal(random) * (i % k % 97 == 0 ? outlier : 1.0f));
  for (bf16& v : x) v = to_bf16(normal(random));
  const Packed p = pack(w, n, k, format);
  const Inputs in = inputs(x, 1, k, info(format).max_group_tiles);
  std::vector<float> out(n);
  ref().matmul(in.view, p.matrix, 0, n / kPanel, out.data(), n);
  double error = 0, size = 0;
  for (int i = 0; i < n; ++i) {
    double y = 0;
    for (int c = 0; c < k; ++c) y += static_cast<double>(to_float(w[static_cast<size_t>(i) * k + c])) * to_float(x[c]);
    error += (out[i] - y) * (out[i] - y);
    size += y * y;
  }
  return std::sqrt(error / size);
}

TEST(AmxInt, ErrorsAreWhatTheHeaderSays) {
  EXPECT_LT(relative_error(Format::AMXINT8, 64, 1024, 1.0f), 0.010);
  EXPECT_LT(relative_error(Format::AMXINT4, 64, 1024, 1.0f), 0.10);
}

TEST(Fp8, DecodesSubnormalsNormalsAndSigns) {
  EXPECT_EQ(Fp8Format::value(0x00), 0.0f);
  EXPECT_EQ(Fp8Format::value(0x01), 1.0f / 512);
  EXPECT_EQ(Fp8Format::value(0x07), 7.0f / 512);
  EXPECT_EQ(Fp8Format::value(0x08), 1.0f / 64);
  EXPECT_EQ(Fp8Format::value(0x38), 1.0f);
  EXPECT_EQ(Fp8Format::value(0x7e), 448.0f);
  EXPECT_EQ(Fp8Format::value(0xb9), -1.125f);
}

TEST(Fp8, NearestIsNoFartherThanAnyOtherAndTiesAreEven) {
  for (int i = -4600; i <= 4600; ++i) {
    const float x = static_cast<float>(i) / (i % 2 ? 10.0f : 8192.0f);  // all of them, ties, and far beyond 448
    const uint8_t found = Fp8Format::nearest(x);
    const auto distance = [&](int code) { return std::fabs(Fp8Format::value(static_cast<uint8_t>(code)) - x); };
    for (int code = 0; code < 256; ++code) {
      if ((code & 0x7f) == 0x7f) continue;
      ASSERT_LE(distance(found), distance(code)) << x << ", " << code;
      if (distance(code) == distance(found) && (code & 0x80) == (found & 0x80)) {
        ASSERT_TRUE(code == found || found % 2 == 0) << x;
      }
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
