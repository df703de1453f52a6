#pragma once

// Random packed matrices and rows for both devices, weights about 1 at most. Padding is random too: devices treat it
// alike.

#include <span>

#include "kernels/weight.h"
#include "tests/kernels/cuda_pair.h"

namespace kt {

inline constexpr Format kAllFormats[] = {Format::BF16, Format::FP8, Format::RAWINT4, Format::AMXINT4, Format::AMXINT8};

// Groups of tiles that a format may have.
inline std::vector<int> group_sizes(Format format) {
  std::vector<int> sizes;
  if (!info(format).max_group_tiles) sizes.push_back(0);
  for (int tiles = 1; tiles <= info(format).max_group_tiles; tiles *= 2) sizes.push_back(tiles);
  return sizes;
}

// data: null.
inline std::vector<std::byte> random_panels(const PackedMatrix& m, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> draw;
  const float scale = m.format == Format::AMXINT8 ? 0.005f : 0.1f;
  std::vector<std::byte> bytes(m.bytes());
  for (int p = 0; p < m.panels(); ++p) {
    std::byte* panel = bytes.data() + static_cast<size_t>(p) * m.panel_bytes();
    for (size_t i = 0; i < m.scales_at(); ++i) panel[i] = static_cast<std::byte>(random());
    for (size_t i = 0; m.format == Format::BF16 && i < m.scales_at(); i += sizeof(bf16)) {
      const bf16 w = to_bf16(draw(random));
      std::memcpy(panel + i, &w, sizeof w);
    }
    for (size_t at = m.scales_at();
         at < m.scales_at() + m.groups() * static_cast<size_t>(info(m.format).scale_bytes);) {
      const float s = scale * draw(random);
      const bf16 narrow = to_bf16(s);
      const size_t width = m.format == Format::FP8 ? sizeof s : sizeof narrow;
      std::memcpy(panel + at, m.format == Format::FP8 ? static_cast<const void*>(&s) : &narrow, width);
      at += width;
    }
  }
  return bytes;
}

// A matrix in the memory of both devices.
struct PairMatrix {
  Both<std::byte> bytes;
  PackedMatrix cpu, gpu;

  PairMatrix(const Pair& pair, PackedMatrix m, unsigned seed) : bytes(pair, random_panels(m, seed)), cpu(m), gpu(m) {
    cpu.data = bytes.cpu();
    gpu.data = bytes.gpu();
  }
};

// (rows, k) bf16 rows for products, in the memory of both devices.
struct Inputs {
  int rows, columns;
  int64_t ld;
  Both<bf16> x;

  Inputs(const Pair& pair, int r, int k)
      : rows(r), columns(k), ld(round_up(k, kTileK) + kTileK), x(pair, normal_bf16(static_cast<size_t>(r * ld), 3)) {}
  Mat<bf16> cpu() const { return x.cpu_mat(rows, columns, ld); }
  Mat<bf16> gpu() const { return x.gpu_mat(rows, columns, ld); }
  Mat<bf16> gpu(int first, int count) const { return {x.gpu() + first * ld, ld, count, columns}; }
};

// Of a product: (rows, k) x (n, k).
struct Size {
  int rows, n, k;
};
// Calls test(matrix, size) for all formats and sizes, and for smaller groups with some of the sizes.
template <class Test>
void with_matrices(std::span<const Format> formats, std::span<const Size> sizes, const Test& test) {
  for (const Format format : formats)
    for (const int group : group_sizes(format))
      for (const Size& s : sizes) {
        if (group < info(format).max_group_tiles && s.k % 7) continue;
        SCOPED_TRACE(testing::Message() << info(format).name << ", groups of " << group << ": " << s.rows << " x "
                                        << s.n << " x " << s.k);
        test(PackedMatrix{.format = format, .n = s.n, .k = s.k, .group_tiles = group}, s);
        if (testing::Test::HasFatalFailure()) return;
      }
}

}  // namespace kt
