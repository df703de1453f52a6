// Products with packed matrices, on the emulated GPU and by the specification.

#include <gtest/gtest.h>

#include "tests/kernels/cuda_weights.h"

namespace kt {
namespace {

// Rows of every form; tiles less than a warp takes, and more than are added up at a time.
const Size kSizes[] = {{1, 16, 32},  {1, 24, 9000}, {2, 40, 4200}, {3, 33, 2100}, {5, 33, 2100},
                       {8, 16, 480}, {13, 48, 300}, {17, 33, 300}, {41, 80, 64},  {70, 16, 700}};

template <class Test>
void with_all_formats(const Test& test) {
  with_matrices(kAllFormats, kSizes, test);
}

TEST(CudaProducts, LinearHasTheBitsOfTheSpecification) {
  Pair pair;
  pair.reserve({.rows = 70, .int8_columns = 9000});
  with_all_formats([&](const PackedMatrix& m, const Size& s) {
    const Inputs x(pair, s.rows, s.k);
    const PairMatrix w(pair, m, 5);
    const int64_t ld = round_up(s.n, kPanel) + 4;
    const std::vector<float> before = normal_floats(static_cast<size_t>(s.rows * ld), 7);
    Both<float> out(pair, before);
    pair.cpu->linear(x.cpu(), {{w.cpu, out.cpu_mat(s.rows, s.n, ld)}});
    Pair::in_every_schedule([&] {
      pair.gpu->write(out.gpu(), before.data(), before.size() * sizeof(float));
      pair.gpu->linear(x.gpu(), {{w.gpu, out.gpu_mat(s.rows, s.n, ld)}});
      out.expect_same("product");
    });
  });
}

TEST(CudaProducts, LinearTakesManyMatricesOfSeveralFormats) {
  Pair pair;
  const int k = 200;
  pair.reserve({.rows = 20, .int8_columns = k});
  for (const int rows : {1, 20}) {
    const Inputs x(pair, rows, k);
    std::vector<PairMatrix> w;
    std::vector<Both<float>> out;
    for (int i = 0; i < 7; ++i) {
      const Format format = i < 5 ? Format::BF16 : i < 6 ? Format::AMXINT8 : Format::AMXINT4;
      const int n = 16 * (i % 3) + 9, group = i < 5 ? 0 : 4;
      w.emplace_back(pair, PackedMatrix{.format = format, .n = n, .k = k, .group_tiles = group}, 11u + i);
      out.emplace_back(pair, static_cast<size_t>(rows) * 48);
    }
    const auto run = [&](Device& device, bool gpu) {
      const auto product = [&](size_t i) {
        return Product{gpu ? w[i].gpu : w[i].cpu,
                       gpu ? out[i].gpu_mat(rows, w[i].cpu.n, 48) : out[i].cpu_mat(rows, w[i].cpu.n, 48)};
      };
      device.linear(gpu ? x.gpu() : x.cpu(),
                    {product(0), product(5), product(1), product(2), product(3), product(6), product(4)});
    };
    run(*pair.cpu, false);
    run(*pair.gpu, true);
    for (const Both<float>& o : out) o.expect_same("product");
  }
}

TEST(CudaProducts, LinearSumAddsSlicesOnTheGrid) {
  Pair pair;
  pair.reserve({.rows = 70, .int8_columns = 9000});
  with_all_formats([&](const PackedMatrix& m, const Size& s) {
    const Inputs x(pair, s.rows, s.k);
    const PairMatrix w(pair, m, 5);
    const int64_t ld = round_up(s.n, kPanel) + 2;
    std::vector<double> before;
    for (float v : normal_floats(static_cast<size_t>(s.rows * ld), 7)) before.push_back(to_grid(v));
    std::vector<float> scales = normal_floats(static_cast<size_t>(s.rows), 9);
    scales[0] = 700.0f;  // some of the sums are beyond what float32 keeps on the grid
    const Both<float> scale(pair, scales);
    const struct {
      int tiles;
      bool scaled;
    } slices[] = {{std::max(m.group_tiles, 1), true}, {4, false}, {64, true}};
    for (const auto& [tiles, scaled] : slices) {
      const int slice = tiles * kTileK;
      Both<double> y(pair, before);
      pair.cpu->linear_sum(x.cpu(), w.cpu, slice, scaled ? scale.cpu() : nullptr, y.cpu_mat(s.rows, s.n, ld));
      Pair::in_every_schedule([&, scaled = scaled] {
        pair.gpu->write(y.gpu(), before.data(), before.size() * sizeof(double));
        pair.gpu->linear_sum(x.gpu(), w.gpu, slice, scaled ? scale.gpu() : nullptr, y.gpu_mat(s.rows, s.n, ld));
        y.expect_same(scaled ? "scaled sums" : "sums");
      });
      if (testing::Test::HasFatalFailure()) return;
    }
  });
}

TEST(CudaProducts, SwigluHasTheBitsOfTheSpecification) {
  Pair pair;
  pair.reserve({.rows = 70, .int8_columns = 9000});
  with_all_formats([&](PackedMatrix m, const Size& s) {
    m.n = static_cast<int>(2 * round_up(s.n, kTileK));
    const Inputs x(pair, s.rows, s.k);
    const PairMatrix w(pair, m, 5);
    const int64_t ld = m.n / 2 + 8;
    const std::vector<bf16> before = normal_bf16(static_cast<size_t>(s.rows * ld), 7);
    Both<bf16> h(pair, before);
    pair.cpu->swiglu(x.cpu(), w.cpu, h.cpu_mat(s.rows, m.n / 2, ld));
    Pair::in_every_schedule([&] {
      pair.gpu->write(h.gpu(), before.data(), before.size() * sizeof(bf16));
      pair.gpu->swiglu(x.gpu(), w.gpu, h.gpu_mat(s.rows, m.n / 2, ld));
      h.expect_same("activations");
    });
  });
}

TEST(CudaProducts, NoRowsNeedNothing) {
  Pair pair;
  pair.reserve({.rows = 1, .int8_columns = 32});
  const Inputs x(pair, 1, 32);
  const PairMatrix w(pair, {.n = 32, .k = 32}, 5);
  const uint32_t before = simt::emulated::launches;
  pair.gpu->linear(x.gpu().top(0), {{w.gpu, Mat<float>{}}});
  pair.gpu->linear_sum(x.gpu().top(0), w.gpu, 32, nullptr, Mat<double>{});
  pair.gpu->swiglu(x.gpu().top(0), w.gpu, Mat<bf16>{});
  EXPECT_EQ(simt::emulated::launches, before);
}

}  // namespace
}  // namespace kt
