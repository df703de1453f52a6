#pragma once

#include <cstring>

#include "kernels/weight.h"

namespace kt {

// BF16: the checkpoint's own values. Line p (p = 0..15) of a tile holds the inputs 2p and 2p+1 of all 16 outputs,
// [out 0: 2p, 2p+1][out 1: 2p, 2p+1]... = 64 bytes, the B operand of TDPBF16PS.
// Error of a chain against exact arithmetic on the bf16 inputs: |error| <= (17 + k/32) 2^-24 sum |x_i w_i|.
struct Bf16Format {
  static constexpr Format kFormat = Format::BF16;

  // Packs `count` <= 16 rows of k columns; `stride` elements from one row to the next.
  static void pack(const bf16* rows, int64_t stride, int count, int k, std::byte* panel) {
    auto* out = reinterpret_cast<bf16*>(panel);
    for (int k0 = 0; k0 < k; k0 += kTileK, out += kPanel * kTileK) {
      const int width = k - k0 < kTileK ? k - k0 : kTileK;
      if (count < kPanel || width < kTileK) std::memset(out, 0, kPanel * kTileK * sizeof(bf16));
      for (int r = 0; r < count; ++r) {
        const bf16* in = rows + r * stride + k0;
        for (int c = 0; c + 1 < width; c += 2) std::memcpy(out + c * kPanel + 2 * r, in + c, 2 * sizeof(bf16));
        if (width % 2) out[(width - 1) * kPanel + 2 * r] = in[width - 1];
      }
    }
  }

  // Weight of output r and input c of a tile, as the chain sees it.
  static float weight(const std::byte* tile, int r, int c) {
    bf16 w;
    std::memcpy(&w, tile + ((c / 2) * kTileK + 2 * r + c % 2) * sizeof(bf16), sizeof w);
    return to_float(w);
  }
  static float scale(const std::byte*, int) { return 1.0f; }
};

}  // namespace kt
