#pragma once

#include <bit>
#include <cmath>
#include <cstring>

#include "kernels/weight.h"

namespace kt {

// AMXINT8 and AMXINT4: ktmpi's own formats, made by `ktmpi convert` or while loading. Weights are integers with one
// bf16 scale per output and group of 128 inputs, rounded once from the source's values; activations are quantised to
// int8 per row and the same group (quantize_row). Products and sums inside a group are exact integers; then result =
// fma(float(sum), activation scale * weight scale, result). The int4 scale is the one of sixteen candidates with the
// least squared error: of both signs, so that the side with the largest weights may have the eighth step, which the
// other has not, and smaller than what covers the largest weight, for Gaussian weights gain from clipping a few. A
// tile's line p (p = 0..7) holds the inputs 4p..4p+3 of all 16 outputs as bytes, the B operand of TDPBSSD; int8 is
// stored with an offset of 128 and int4 with one of 8 (unsigned, for VPDPBUSD; the offset times the sum of the
// activations is subtracted). int4 packs lines p (low nibbles) and p + 4 (high nibbles) into 64 bytes.
// Error against float32: per product half a step of each factor, |error| <= sum over groups of
// 128 (max|x| / 254 |w| + max|w| / 14 |x|), where a clipped int4 weight is off by up to max|w| 0.4 instead. Groups of
// 128 Gaussian weights are off by 0.6 % (int8), 9.7 % (int4) relative.
inline constexpr int kIntGroup = 128;

template <Format F>
struct AmxIntFormat {
  static_assert(F == Format::AMXINT4 || F == Format::AMXINT8);
  static constexpr Format kFormat = F;
  static constexpr bool kFour = F == Format::AMXINT4;
  static constexpr int kMin = kFour ? -8 : -127, kMax = kFour ? 7 : 127, kOffset = kFour ? 8 : 128;

  static size_t place(int r, int c, int* shift) {
    const int p = c / 4;
    *shift = kFour && p >= 4 ? 4 : 0;
    return static_cast<size_t>(kFour ? p % 4 : p) * 64 + static_cast<size_t>(r) * 4 + static_cast<size_t>(c % 4);
  }
  static void put(std::byte* tile, int r, int c, int q) {
    int shift;
    std::byte& b = tile[place(r, c, &shift)];
    if (kFour)
      b = (b & static_cast<std::byte>(0xf0 >> shift)) | static_cast<std::byte>((q + kOffset) << shift);
    else
      b = static_cast<std::byte>(q + kOffset);
  }
  static int get(const std::byte* tile, int r, int c) {
    int shift;
    const int b = static_cast<int>(tile[place(r, c, &shift)]);
    return (kFour ? (b >> shift) & 15 : b) - kOffset;
  }
  static float weight(const std::byte* tile, int r, int c) { return static_cast<float>(get(tile, r, c)); }
  static float scale(const std::byte* scales, int r) {
    bf16 s;
    std::memcpy(&s, scales + r * sizeof s, sizeof s);
    return to_float(s);
  }

  // The nearest even integer to w / scale in [kMin, kMax]. Adding 1.5 * 2^23 leaves it in the low bits; integers are
  // clamped without branches, so loops vectorise.
  static int quantized(float w, float inverse) {
    constexpr float kShift = 12582912.0f;
    const auto q = static_cast<int>(std::bit_cast<uint32_t>(w * inverse + kShift) - std::bit_cast<uint32_t>(kShift));
    return q < kMin ? kMin : q > kMax ? kMax : q;
  }
  // Squared error of n <= kIntGroup weights in steps of the scale, summed in eight lanes.
  static float squared_error(const float* w, int n, float inverse) {
    float square[kIntGroup] = {}, lane[8] = {};
    for (int i = 0; i < n; ++i) {
      const float d = w[i] * inverse - static_cast<float>(quantized(w[i], inverse));
      square[i] = d * d;
    }
    for (int i = 0; i < kIntGroup; i += 8)
      for (int j = 0; j < 8; ++j) lane[j] += square[i + j];
    return ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
  }
  // The bf16 scale for n weights; 0 when all are zero.
  static bf16 choose_scale(const float* w, int n) {
    float top = 0.0f;
    for (int i = 0; i < n; ++i) top = std::fabs(w[i]) > top ? std::fabs(w[i]) : top;
    if (!kFour || top == 0.0f) return to_bf16(top / kMax);
    bf16 best = 0;
    double least = INFINITY;
    for (int i = 0; i < 16; ++i) {
      const bf16 s = to_bf16((i % 2 ? top : -top) / 8 * (1.125f - static_cast<float>(i / 2) / 16.0f));
      const double scale = to_float(s);
      const double error = scale * scale * squared_error(w, n, 1.0f / to_float(s));
      if (error < least) least = error, best = s;
    }
    return best;
  }

  // Packs `count` <= 16 rows of k float32 values.
  static void pack(const float* rows, int64_t stride, int count, const PackedMatrix& m, std::byte* panel) {
    std::memset(panel, kFour ? 0x88 : 0x80, m.scales_at());
    std::memset(panel + m.scales_at(), 0, m.panel_bytes() - m.scales_at());
    for (int r = 0; r < count; ++r)
      for (int g = 0; g < m.groups(); ++g) {
        const int from = g * m.group_tiles * kTileK,
                  to = from + m.group_tiles * kTileK < m.k ? from + m.group_tiles * kTileK : m.k;
        const float* w = rows + r * stride;
        const bf16 s = choose_scale(w + from, to - from);
        std::memcpy(panel + m.scales_at() + (g * kPanel + r) * sizeof s, &s, sizeof s);
        const float inverse = s ? 1.0f / to_float(s) : 0.0f;
        for (int c = from; c < to; ++c)
          put(panel + static_cast<size_t>(c / kTileK) * info(F).tile_bytes, r, c % kTileK, quantized(w[c], inverse));
      }
  }
};
using AmxInt4Format = AmxIntFormat<Format::AMXINT4>;
using AmxInt8Format = AmxIntFormat<Format::AMXINT8>;

}  // namespace kt
