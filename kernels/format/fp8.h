#pragma once

#include <cmath>
#include <cstring>

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
