#pragma once

#include <bit>
#include <cstdint>

namespace kt {

using bf16 = uint16_t;  // the upper half of a float32

inline constexpr float to_float(bf16 x) { return std::bit_cast<float>(static_cast<uint32_t>(x) << 16); }

// Round to nearest even; NaN stays NaN.
inline constexpr bf16 to_bf16(float x) {
  const uint32_t u = std::bit_cast<uint32_t>(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return static_cast<bf16>((u >> 16) | 0x40u);
  return static_cast<bf16>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

// Sums that may be cut anywhere. Partial results that are added across slices of a dimension, across experts and across
// ranks are first rounded to multiples of 2^-32; sums of such numbers below 2^20 are exact in float64, so they have the
// same bits in every order, for every number of ranks, threads and rows. This is the pre-rounding of Demmel and Nguyen
// ("Fast Reproducible Floating-Point Summation", 2013) with one fixed bin: what is added here has the scale of a
// layer's output. Rounding costs at most 2^-33 = 1.2e-10 a term; sums beyond 2^20 keep float64's accuracy and lose only
// the independence of order.
inline constexpr double kGridShift = 1.5 * (1ull << 20);  // ulp of values around it: 2^-32
inline constexpr double to_grid(double x) { return (x + kGridShift) - kGridShift; }

inline constexpr int64_t round_up(int64_t x, int64_t unit) { return (x + unit - 1) / unit * unit; }
inline constexpr int64_t ceil_div(int64_t x, int64_t y) { return (x + y - 1) / y; }

}  // namespace kt
