#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/weight.h"

namespace kt {

// FP8 E4M3 ("fn": bias 7, no infinities; the NaN codes 0x7f and 0xff, which no release has, count as +-480) with one
// float32 scale per block of the checkpoint, 128 x 128 in all releases. Activations stay bf16. A 64-byte vector i (i =
// 0..7) of a tile holds lines 2i and 2i+1: 16 words with the even inputs of the 16 outputs, then 16 words with the odd
// ones; the low byte of a word is line 2i, the high byte line 2i+1 (line p: inputs 2p and 2p+1). Chains see weight /
// 256, which is what a byte becomes when its bits are moved into a float16 (exact, subnormals too); the stored scale is
// 256 times the block's. Powers of two commute with rounding, so nothing else changes. Error: that of a bf16 chain per
// group of 128 inputs, plus one rounding per group.
struct Fp8Format {
  static constexpr Format kFormat = Format::FP8;

  static float value(uint8_t b) {
    const int exponent = (b >> 3) & 15, mantissa = b & 7;
    const float magnitude = exponent ? std::ldexp(1.0f + static_cast<float>(mantissa) / 8, exponent - 7)
                                     : std::ldexp(static_cast<float>(mantissa), -9);
    return b & 0x80 ? -magnitude : magnitude;
  }

  // The number nearest to x, ties to even; no larger than 448.
  static uint8_t nearest(float x) {
    const float size = std::min(std::fabs(x), 448.0f);
    const uint8_t sign = std::signbit(x) ? 0x80 : 0;
    if (size < 0x1p-6f) return sign | static_cast<uint8_t>(std::nearbyint(size * 512));
    const auto bits = std::bit_cast<uint32_t>(size);
    const uint32_t rounded = bits + 0x7ffff + (bits >> 20 & 1);
    return sign | static_cast<uint8_t>((rounded >> 20) - ((127 - 7) << 3));
  }

  static size_t place(int r, int c) {  // of output r and input c in a tile
    const int p = c / 2;
    return static_cast<size_t>(p / 2) * 64 + static_cast<size_t>(c % 2) * 32 + static_cast<size_t>(r) * 2 +
           static_cast<size_t>(p % 2);
  }

  // Packs `count` <= 16 rows of k bytes. scale(group) is the factor of this panel's rows and the group's columns.
  template <class Scale>
  static void pack(const uint8_t* rows, int64_t stride, int count, const PackedMatrix& m, const Scale& scale,
                   std::byte* panel) {
    std::memset(panel, 0, m.panel_bytes());
    for (int r = 0; r < count; ++r)
      for (int c = 0; c < m.k; ++c)
        panel[static_cast<size_t>(c / kTileK) * 512 + place(r, c % kTileK)] =
            static_cast<std::byte>(rows[r * stride + c]);
    for (int g = 0; g < m.groups(); ++g) {
      const float s = 256.0f * scale(g);
      std::memcpy(panel + m.scales_at() + g * sizeof s, &s, sizeof s);
    }
  }

  // Quantises `count` <= 16 rows of k values: they share a scale for each group of inputs, which makes the largest 448.
  // A weight is off by at most 1/16 of itself, or by 2^-10 of the scale where that is more.
  static void pack(const float* rows, int64_t stride, int count, const PackedMatrix& m, std::byte* panel) {
    std::vector<uint8_t> bytes(static_cast<size_t>(count) * static_cast<size_t>(m.k));
    std::vector<float> scales(static_cast<size_t>(m.groups()), 0.0f);
    for (int g = 0; g < m.groups(); ++g) {
      const int from = g * m.group_tiles * kTileK, to = std::min(from + m.group_tiles * kTileK, m.k);
      float top = 0.0f;
      for (int r = 0; r < count; ++r)
        for (int c = from; c < to; ++c) top = std::max(top, std::fabs(rows[r * stride + c]));
      scales[static_cast<size_t>(g)] = top / 448;
      for (int r = 0; top > 0 && r < count; ++r)
        for (int c = from; c < to; ++c)
          bytes[static_cast<size_t>(r * int64_t{m.k} + c)] = nearest(rows[r * stride + c] / top * 448);
    }
    pack(
        bytes.data(), m.k, count, m, [&](int g) { return scales[static_cast<size_t>(g)]; }, panel);
  }

  static float weight(const std::byte* tile, int r, int c) {
    return value(static_cast<uint8_t>(tile[place(r, c)])) / 256.0f;
  }
  static float scale(const std::byte* scales, int) {
    float s;
    std::memcpy(&s, scales, sizeof s);
    return s;
  }
};

}  // namespace kt
