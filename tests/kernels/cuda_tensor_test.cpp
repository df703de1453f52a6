// Products on tensor cores: integers by the specification; floats by the order that kernels/cuda/tensor.h gives, on
// models of tensor cores, and by float64.

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/cpu/ref.h"
#include "kernels/format/bf16.h"
#include "kernels/format/fp8.h"
#include "kernels/format/rawint4.h"
#include "tests/kernels/cuda_weights.h"

namespace kt {
namespace {

using simt::TensorCore;

constexpr Format kFloats[] = {Format::BF16, Format::FP8, Format::RAWINT4};
constexpr int kMostRows = 70;

// Rows of every form; more than one block's rows and panels, and more tiles than are added up at a time.
const Size kSizes[] = {{1, 24, 9000}, {2, 40, 4200}, {3, 33, 2100}, {7, 33, 1100},
                       {8, 16, 480},  {13, 48, 300}, {17, 33, 300}, {70, 150, 700}};

float weight_of(const PackedMatrix& w, const std::byte* tile, int output, int input) {
  if (w.format == Format::BF16) return Bf16Format::weight(tile, output, input);
  return w.format == Format::FP8 ? Fp8Format::weight(tile, output, input) : RawInt4Format::weight(tile, output, input);
}
float scale_of(const PackedMatrix& w, const std::byte* scales, int output) {
  return w.format == Format::FP8 ? Fp8Format::scale(scales, output) : RawInt4Format::scale(scales, output);
}

// Up to eight rows of a panel, by columns of mma.
struct Eight {
  float of[kPanel][8] = {};
};
Eight tile_sums(TensorCore core, const PackedMatrix& w, const std::byte* tile, const bf16* x, int64_t ld, int rows) {
  Eight sums;
  for (int step = 0; step < 2; ++step) {
    uint16_t a[16][16], b[16][8] = {};
    for (int c = 0; c < 16; ++c) {
      const int input = c % 8 / 2 * 8 + step * 4 + c / 8 * 2 + c % 2;
      for (int o = 0; o < kPanel; ++o) a[o][c] = to_bf16(weight_of(w, tile, o, input));
      for (int r = 0; r < rows; ++r) b[c][r] = x[r * ld + input];
    }
    simt::multiply(core, a, b, sums.of);
  }
  return sums;
}
// Of tiles [begin, end), as tensor.h says.
Eight chains(TensorCore core, const PackedMatrix& w, int panel, int begin, int end, const bf16* x, int64_t ld,
             int rows) {
  Eight result, group;
  for (int t = begin; t < end; ++t) {
    const std::byte* at = w.panel(panel);
    const Eight sums =
        tile_sums(core, w, at + static_cast<size_t>(t) * info(w.format).tile_bytes, x + t * kTileK, ld, rows);
    const bool last = !w.group_tiles || t + 1 == end || (t + 1) % w.group_tiles == 0;
    for (int o = 0; o < kPanel; ++o)
      for (int r = 0; r < rows; ++r) {
        float &y = result.of[o][r], &part = group.of[o][r];
        if (!w.group_tiles) {
          y = y + sums.of[o][r];
          continue;
        }
        part = part + sums.of[o][r];
        if (!last) continue;
        const std::byte* scales = at + w.scales_at() + t / w.group_tiles * info(w.format).scale_bytes;
        y = std::fma(scale_of(w, scales, o), part, y);
        part = 0.0f;
      }
  }
  return result;
}
// use(row, output, sum) of all outputs, padding included.
template <class Use>
void all_chains(TensorCore core, const PackedMatrix& w, int begin, int end, const bf16* x, int64_t ld, int rows,
                const Use& use) {
  for (int panel = 0; panel < w.panels(); ++panel)
    for (int first = 0; first < rows; first += 8) {
      const int count = std::min(8, rows - first);
      const Eight sums = chains(core, w, panel, begin, end, x + first * ld, ld, count);
      for (int o = 0; o < kPanel; ++o)
        for (int r = 0; r < count; ++r) use(first + r, panel * kPanel + o, sums.of[o][r]);
    }
}

// A device on tensor cores beside the CPU's.
struct Tensor {
  Pair pair;

  explicit Tensor(StepShape shape = {}) {
    shape.rows = std::max(shape.rows, kMostRows);
    shape.int8_columns = 9000;
    shape.tensor_cores = true;
    pair.reserve(shape);
  }
  Device& gpu() const { return *pair.gpu; }
};

// Calls run(kind) for the two kinds of tensor cores, each with threads and copies in several orders. A GPU has its own.
template <class Run>
void on_each_tensor_core(const Run& run) {
  if (!tested_kind().on_host) return;
  using enum simt::Emulation::Order;
  using enum simt::Emulation::Copies;
  using Pace = simt::Emulation::Pace;
  for (const simt::Emulation& e : std::vector<simt::Emulation>{
           {.order = kAscending, .copies = kLate, .tensor_core = TensorCore::kAmpere},
           {.order = kDescending, .copies = kEarly, .tensor_core = TensorCore::kHopper, .pace = Pace::kLazy},
           {.order = kShuffled,
           .copies = kRandom,
           .seed = 1,
           .tensor_core = TensorCore::kAmpere,
           .pace = Pace::kRandom},
           {.order = kShuffled, .copies = kLate, .seed = 2, .tensor_core = TensorCore::kHopper}}) {
    SCOPED_TRACE(e.tensor_core == TensorCore::kAmpere ? "sm_80" : "sm_90");
    simt::emulation = e;
    run(e.tensor_core);
    simt::emulation = {};
    if (testing::Test::HasFatalFailure()) return;
  }
}

template <class Test>
void with_floats(const Test& test) {
  with_matrices(kFloats, kSizes, test);
}

TEST(CudaTensor, LinearAddsInTheOrderThatIsSaid) {
  if (!tested_kind().on_host) GTEST_SKIP() << "models of tensor cores are not this GPU";
  const Tensor on;
  with_floats([&](const PackedMatrix& m, const Size& s) {
    const Inputs x(on.pair, s.rows, s.k);
    const PairMatrix w(on.pair, m, 5);
    const int64_t ld = round_up(s.n, kPanel) + 3;
    const std::vector<float> before = normal_floats(static_cast<size_t>(s.rows * ld), 7);
    Both<float> out(on.pair, before);
    on_each_tensor_core([&](TensorCore core) {
      out.set(before);
      all_chains(core, w.cpu, 0, m.k_tiles(), x.x.cpu(), x.ld, s.rows,
                 [&](int r, int o, float y) { out.cpu()[r * ld + o] = y; });
      on.gpu().linear(x.gpu(), {{w.gpu, out.gpu_mat(s.rows, s.n, ld)}});
      out.expect_same("product");
    });
  });
}

// |error| <= (tile + tiles + groups) 2^-24 sum |x w|, with what tensor.h derives for a tile and the tiles that are
// added up before a scale: all, or a group's.
TEST(CudaTensor, LinearIsWithinItsBoundOfFloat64) {
  const Tensor on;
  with_floats([&](const PackedMatrix& m, const Size& s) {
    const Inputs x(on.pair, s.rows, s.k);
    const PairMatrix w(on.pair, m, 5);
    const int64_t ld = round_up(s.n, kPanel);
    std::vector<double> exact(static_cast<size_t>(s.rows * ld)), size(exact.size());
    for (int r = 0; r < s.rows; ++r)
      for (int o = 0; o < ld; ++o)
        for (int c = 0; c < m.k_tiles() * kTileK; ++c) {
          const int tile = c / kTileK;
          const std::byte* panel = w.cpu.panel(o / kPanel);
          const double scale =
              m.group_tiles
                  ? scale_of(m, panel + m.scales_at() + tile / m.group_tiles * info(m.format).scale_bytes, o % kPanel)
                  : 1.0;
          const double product =
              scale * to_float(x.x.cpu()[r * x.ld + c]) *
              weight_of(m, panel + static_cast<size_t>(tile) * info(m.format).tile_bytes, o % kPanel, c % kTileK);
          exact[static_cast<size_t>(r * ld + o)] += product;
          size[static_cast<size_t>(r * ld + o)] += std::fabs(product);
        }
    const Both<float> out(on.pair, exact.size());
    const auto check = [&](int of_tile) {
      on.gpu().linear(x.gpu(), {{w.gpu, out.gpu_mat(s.rows, s.n, ld)}});
      const std::vector<float> found = out.found();
      const int adds = m.group_tiles ? m.group_tiles + m.groups() : m.k_tiles();
      for (size_t i = 0; i < exact.size(); ++i)
        ASSERT_LE(std::fabs(found[i] - exact[i]), (of_tile + adds) * 0x1p-24 * size[i])
            << "element " << i << ": found " << found[i] << ", expected " << exact[i];
    };
    on_each_tensor_core([&](TensorCore core) { check(core == TensorCore::kAmpere ? 40 : 20); });
    if (!tested_kind().on_host) check(40);
  });
}

TEST(CudaTensor, LinearSumAddsSlicesOnTheGrid) {
  if (!tested_kind().on_host) GTEST_SKIP() << "models of tensor cores are not this GPU";
  const Tensor on;
  with_floats([&](const PackedMatrix& m, const Size& s) {
    const Inputs x(on.pair, s.rows, s.k);
    const PairMatrix w(on.pair, m, 5);
    const int64_t ld = round_up(s.n, kPanel) + 3;
    std::vector<double> before;
    for (float v : normal_floats(static_cast<size_t>(s.rows * ld), 7)) before.push_back(to_grid(v));
    std::vector<float> scales = normal_floats(static_cast<size_t>(s.rows), 9);
    scales[0] = 700.0f;  // some of the sums are beyond what float32 keeps on the grid
    const Both<float> scale(on.pair, scales);
    Both<double> y(on.pair, before);
    for (const int tiles : {std::max(m.group_tiles, 1), 12})
      on_each_tensor_core([&](TensorCore core) {
        y.set(before);
        for (int t = 0; t < m.k_tiles(); t += tiles)
          all_chains(core, w.cpu, t, std::min(t + tiles, m.k_tiles()), x.x.cpu(), x.ld, s.rows,
                     [&](int r, int o, float sum) {
                       y.cpu()[r * ld + o] += to_grid(static_cast<double>(tiles > 4 ? scales[r] : 1.0f) * sum);
                     });
        on.gpu().linear_sum(x.gpu(), w.gpu, tiles * kTileK, tiles > 4 ? scale.gpu() : nullptr,
                            y.gpu_mat(s.rows, s.n, ld));
        y.expect_same("sums");
      });
  });
}

TEST(CudaTensor, SwigluIsMadeOfSuchSums) {
  if (!tested_kind().on_host) GTEST_SKIP() << "models of tensor cores are not this GPU";
  const Tensor on;
  with_floats([&](PackedMatrix m, const Size& s) {
    m.n = static_cast<int>(2 * round_up(s.n, kTileK));
    const Inputs x(on.pair, s.rows, s.k);
    const PairMatrix w(on.pair, m, 5);
    const int64_t ld = m.n / 2 + 3;
    const std::vector<bf16> before = normal_bf16(static_cast<size_t>(s.rows * ld), 7);
    Both<bf16> h(on.pair, before);
    std::vector<float> sums(static_cast<size_t>(s.rows * m.n));
    on_each_tensor_core([&](TensorCore core) {
      h.set(before);
      all_chains(core, w.cpu, 0, m.k_tiles(), x.x.cpu(), x.ld, s.rows,
                 [&](int r, int o, float y) { sums[static_cast<size_t>(r * m.n + o)] = y; });
      for (int r = 0; r < s.rows; ++r)
        for (int o = 0; o < m.n / 2; ++o) {
          const float* gate = sums.data() + r * m.n + o / kPanel * 2 * kPanel + o % kPanel;
          const float sigmoid = ref::sigmoid_ref(*gate);
          h.cpu()[r * ld + o] = to_bf16(*gate * (sigmoid < 0x1p-126f ? 0.0f : sigmoid) * gate[kPanel]);  // no denormals
        }
      on.gpu().swiglu(x.gpu(), w.gpu, h.gpu_mat(s.rows, m.n / 2, ld));
      h.expect_same("activations");
    });
  });
}

TEST(CudaTensor, ARowHasTheSameBitsAloneAndAmongOthers) {
  const Tensor on;
  const int n = 48, k = 500;
  for (const Format format : kFloats) {
    SCOPED_TRACE(info(format).name);
    const Inputs x(on.pair, kMostRows, k);
    const PairMatrix w(on.pair, {.format = format, .n = n, .k = k, .group_tiles = info(format).max_group_tiles}, 5);
    const PairMatrix gate_up(on.pair,
                             {.format = format, .n = 2 * n, .k = k, .group_tiles = info(format).max_group_tiles}, 6);
    struct Found {
      std::vector<float> product;
      std::vector<bf16> activations;
      std::vector<double> sums;
    };
    const auto of = [&](int first, int count) {
      const Both<float> out(on.pair, static_cast<size_t>(count * n));
      const Both<bf16> act(on.pair, static_cast<size_t>(count * n));
      const Both<double> y(on.pair, static_cast<size_t>(count * n));
      on.gpu().linear(x.gpu(first, count), {{w.gpu, out.gpu_mat(count, n, n)}});
      on.gpu().swiglu(x.gpu(first, count), gate_up.gpu, act.gpu_mat(count, n, n));
      on.gpu().linear_sum(x.gpu(first, count), w.gpu, 4 * kTileK, nullptr, y.gpu_mat(count, n, n));
      return Found{out.found(), act.found(), y.found()};
    };
    const Found all = of(0, kMostRows);
    for (int count = 1; count < kMostRows; ++count) {
      const int first = count * 5 % (kMostRows - count + 1);
      const Found some = of(first, count);
      for (int i = 0; i < count * n; ++i) {
        const size_t a = static_cast<size_t>(i), b = static_cast<size_t>(first * n + i);
        ASSERT_EQ(some.product[a], all.product[b]) << count << " rows, element " << i;
        ASSERT_EQ(some.activations[a], all.activations[b]) << count << " rows, element " << i;
        ASSERT_EQ(some.sums[a], all.sums[b]) << count << " rows, element " << i;
      }
    }
  }
}

TEST(CudaTensor, IntegersHaveTheBitsOfTheSpecification) {
  const Tensor on({.rows = 150});
  for (const Format format : {Format::AMXINT4, Format::AMXINT8})
    for (const int group : group_sizes(format))
      for (const Size& s :
           {Size{1, 40, 9000}, Size{3, 20, 330}, Size{9, 300, 400}, Size{17, 16, 8500}, Size{150, 300, 500}}) {
        SCOPED_TRACE(testing::Message() << info(format).name << ", groups of " << group << ": " << s.rows << " x "
                                        << s.n << " x " << s.k);
        const Inputs x(on.pair, s.rows, s.k);
        const PackedMatrix m{.format = format, .n = s.n, .k = s.k, .group_tiles = group},
            small{.format = format, .n = 24, .k = s.k, .group_tiles = group};
        const PairMatrix w(on.pair, m, 5), other(on.pair, small, 6);
        PackedMatrix both = m;
        both.n = static_cast<int>(2 * round_up(s.n, kTileK));
        const PairMatrix gate_up(on.pair, both, 7);
        const int64_t ld = round_up(s.n, kTileK) + 1;
        const size_t size = static_cast<size_t>(s.rows * ld);
        const Both<float> out(on.pair, size), second(on.pair, size);
        const Both<bf16> h(on.pair, size);
        const Both<double> y(on.pair, size);
        const std::vector<float> scales = normal_floats(static_cast<size_t>(s.rows), 9, 100.0f);
        const Both<float> scale(on.pair, scales);
        on.pair.cpu->linear(x.cpu(),
                            {{w.cpu, out.cpu_mat(s.rows, s.n, ld)}, {other.cpu, second.cpu_mat(s.rows, small.n, ld)}});
        on.gpu().linear(x.gpu(),
                        {{w.gpu, out.gpu_mat(s.rows, s.n, ld)}, {other.gpu, second.gpu_mat(s.rows, small.n, ld)}});
        out.expect_same("product");
        second.expect_same("second product");
        on.pair.cpu->swiglu(x.cpu(), gate_up.cpu, h.cpu_mat(s.rows, both.n / 2, ld));
        on.gpu().swiglu(x.gpu(), gate_up.gpu, h.gpu_mat(s.rows, both.n / 2, ld));
        h.expect_same("activations");
        on.pair.cpu->linear_sum(x.cpu(), w.cpu, group * kTileK, scale.cpu(), y.cpu_mat(s.rows, s.n, ld));
        on.gpu().linear_sum(x.gpu(), w.gpu, group * kTileK, scale.gpu(), y.gpu_mat(s.rows, s.n, ld));
        y.expect_same("sums");
        if (HasFatalFailure()) return;
      }
}

// Experts of all formats: of each expert's rows, what swiglu and linear_sum make.
TEST(CudaTensor, ExpertsAreMadeOfTheOtherProducts) {
  constexpr int kExperts = 5, kTopK = 2, kRows = 110, kHidden = 150, kColumns = 200, kSlice = 128;
  const int rows_of[kExperts] = {7, 80, 1, 0, 18};
  const Tensor on({.rows = kRows,
                   .experts = {.experts = kExperts,
                               .top_k = kTopK,
                               .hidden = kHidden,
                               .columns = kColumns,
                               .rows = kRows,
                               .format = Format::AMXINT8}});
  const Inputs x(on.pair, kRows, kHidden);
  std::vector<int32_t> ids(kRows * kTopK, -1);
  for (int e = 0, at = 0; e < kExperts; ++e)
    for (int i = 0; i < rows_of[e]; ++i, at += 3) ids[static_cast<size_t>(at) % ids.size()] = e;
  const std::vector<float> weights = normal_floats(ids.size(), 4, 0.3f);
  for (const Format format : kAllFormats) {
    SCOPED_TRACE(info(format).name);
    const int most = info(format).max_group_tiles;
    std::vector<PairMatrix> matrices;
    matrices.reserve(2 * kExperts);
    std::vector<FfnWeights> experts;
    for (unsigned e = 0; e < kExperts; ++e) {
      const PairMatrix& gate_up = matrices.emplace_back(
          on.pair, PackedMatrix{.format = format, .n = 448, .k = kHidden, .group_tiles = most}, 2 * e);
      const PairMatrix& down = matrices.emplace_back(
          on.pair, PackedMatrix{.format = format, .n = kHidden, .k = kColumns, .group_tiles = most}, 2 * e + 1);
      experts.push_back({gate_up.gpu, down.gpu, kColumns});
    }
    const int64_t ld = round_up(kHidden, kPanel);
    const Both<double> y(on.pair, static_cast<size_t>(kRows * ld));
    on.gpu().experts({.experts = experts.data(),
                      .slice = kSlice,
                      .x = x.gpu(),
                      .routing = {ids, weights, kRows, kTopK},
                      .y = y.gpu_mat(kRows, kHidden, ld)});
    const std::vector<double> found = y.found();

    std::vector<double> expected(found.size());
    for (int e = 0; e < kExperts; ++e) {
      std::vector<int> rows;
      std::vector<float> factors;
      std::vector<bf16> in;
      for (size_t i = 0; i < ids.size(); ++i)
        if (ids[i] == e) {
          rows.push_back(static_cast<int>(i) / kTopK);
          factors.push_back(weights[i]);
          in.insert(in.end(), x.x.cpu() + rows.back() * x.ld, x.x.cpu() + (rows.back() + 1) * x.ld);
        }
      const int count = static_cast<int>(rows.size());
      ASSERT_EQ(count, rows_of[e]);
      if (!count) continue;
      const Both<bf16> some(on.pair, in), h(on.pair, static_cast<size_t>(count * 224));
      const Both<float> factor(on.pair, factors);
      const Both<double> sums(on.pair, static_cast<size_t>(count * ld));
      on.gpu().swiglu(some.gpu_mat(count, kHidden, x.ld), experts[e].gate_up, h.gpu_mat(count, 224, 224));
      on.gpu().linear_sum(h.gpu_mat(count, kColumns, 224), experts[e].down, kSlice, factor.gpu(),
                          sums.gpu_mat(count, kHidden, ld));
      const std::vector<double> part = sums.found();
      for (int r = 0; r < count; ++r)
        for (int c = 0; c < ld; ++c)
          expected[static_cast<size_t>(rows[r] * ld + c)] += part[static_cast<size_t>(r * ld + c)];
    }
    for (size_t i = 0; i < found.size(); ++i) ASSERT_EQ(found[i], expected[i]) << "element " << i;
  }
}

}  // namespace
}  // namespace kt
