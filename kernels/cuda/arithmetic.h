#pragma once

#include "kernels/simt/simt.h"

// Elementary functions and sums with the bits of kernels/cpu/ref.h.

namespace kt::SIMT_TABLE {

__device__ inline float exponential(float x) {
  if (x != x) return x;
  x = fmaxf(fminf(x, 88.3f), -87.3f);
  const float n = rintf(x * 1.44269504f);
  const float r = fmaf(n, -1.42860677e-6f, fmaf(n, -0.693145752f, x));
  float p = 1.0f / 5040;
  p = fmaf(p, r, 1.0f / 720);
  p = fmaf(p, r, 1.0f / 120);
  p = fmaf(p, r, 1.0f / 24);
  p = fmaf(p, r, 1.0f / 6);
  p = fmaf(p, r, 0.5f);
  p = fmaf(p, r, 1.0f);
  p = fmaf(p, r, 1.0f);
  return p * __uint_as_float(static_cast<uint32_t>(static_cast<int>(n) + 127) << 23);
}
__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(0.0f - x)); }
__device__ inline float silu(float x) { return x * sigmoid(x); }

// fold of kernels/cpu/ref.h by sixteen neighbouring lanes, each with its sum; the result is in the first. All lanes of
// the warp take part.
__device__ inline float fold16(float lane) {
  for (int half = 8; half; half /= 2) lane = lane + __shfl_down_sync(~0u, lane, half, 16);
  return lane;
}
// The same, known to all sixteen.
__device__ inline float fold16_all(float lane) { return __shfl_sync(~0u, fold16(lane), 0, 16); }

}  // namespace kt::SIMT_TABLE
