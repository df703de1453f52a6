#pragma once

#include <cstring>

#include "kernels/weight.h"

namespace kt {

// RAWINT4: compressed-tensors "pack-quantized", symmetric, group 32, bf16 scales, straight from the checkpoint:
// weight = (u - 8) * scale, u = 0..15. Activations stay bf16; the integers u - 8 are exact in bf16 and a group is one
// tile, so the scale is applied to the group's sum and no weight is ever rounded. A 64-byte vector i (i = 0..3) of a
// tile holds lines 4i..4i+3 as 32 words [out 0: even, odd][out 1: even, odd]...; nibble b of a word, lowest first,
// belongs to line 4i + b (line p: inputs 2p and 2p+1). Scales: 16 bf16, one per output.
// Error: that of a bf16 chain of 32 per group, plus one rounding per group. AVX2 sums at a larger scale: its bits are
// the others' for inputs that are zero or from 2^-119 to 2^90.
struct RawInt4Format {
  static constexpr Format kFormat = Format::RAWINT4;

  static size_t place(int r, int c, int* shift) {  // of output r and input c: byte of the tile, and bits into it
    const int p = c / 2, nibble = p % 4;
    *shift = 4 * (nibble % 2);
    return static_cast<size_t>(p / 4) * 64 + static_cast<size_t>(2 * r + c % 2) * 2 + static_cast<size_t>(nibble / 2);
  }

  // Packs `count` <= 16 rows. Each row has k/8 little-endian 32-bit words of eight nibbles, lowest first, `stride`
  // bytes from row to row; and k/32 bf16 scales, `scale_stride` elements from row to row. Missing rows are zero.
  static void pack(const std::byte* rows, int64_t stride, const bf16* scales, int64_t scale_stride, int count,
                   const PackedMatrix& m, std::byte* panel) {
    std::memset(panel, 0x88, m.scales_at());  // u = 8 is zero
    std::memset(panel + m.scales_at(), 0, m.panel_bytes() - m.scales_at());
    for (int r = 0; r < count; ++r) {
      for (int c = 0; c < m.k; ++c) {
        const int u = (static_cast<int>(rows[r * stride + c / 2]) >> (4 * (c % 2))) & 15;
        int shift;
        std::byte& b = panel[static_cast<size_t>(c / kTileK) * 256 + place(r, c % kTileK, &shift)];
        b = (b & static_cast<std::byte>(0xf0 >> shift)) | static_cast<std::byte>(u << shift);
      }
      for (int g = 0; g < m.groups(); ++g)
        std::memcpy(panel + m.scales_at() + (g * kPanel + r) * sizeof(bf16), &scales[r * scale_stride + g],
                    sizeof(bf16));
    }
  }

  static float weight(const std::byte* tile, int r, int c) {
    int shift;
    const size_t at = place(r, c, &shift);
    return static_cast<float>(((static_cast<int>(tile[at]) >> shift) & 15) - 8);
  }
  static float scale(const std::byte* scales, int r) {
    bf16 s;
    std::memcpy(&s, scales + r * sizeof s, sizeof s);
    return to_float(s);
  }
};

}  // namespace kt
