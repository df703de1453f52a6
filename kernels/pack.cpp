#include <cstring>

#include "kernels/weight.h"

namespace kt {

void pack_panel_bf16(const bf16* rows, int64_t stride, int count, int k, std::byte* panel) {
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

}  // namespace kt
