#pragma once

#include <cmath>

#include "kernels/ops.h"

// What the files of the specification share: elementary functions, and the operations that ref_mla.cpp gives to
// ref.cpp.

namespace kt::ref {

inline float exp_ref(float x) {
  if (std::isnan(x)) return x;
  x = std::fmax(std::fmin(x, 88.3f), -87.3f);
  const float n = std::nearbyint(x * 1.44269504f);
  const float r = std::fma(n, -1.42860677e-6f, std::fma(n, -0.693145752f, x));
  float p = 1.0f / 5040;
  for (float c : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) p = std::fma(p, r, c);
  return p * std::ldexp(1.0f, static_cast<int>(n));
}
inline float sigmoid_ref(float x) { return 1.0f / (1.0f + exp_ref(0.0f - x)); }

// Sixteen partial sums, element i in sum i mod 16, then halves: i and i + 8, 4, 2, 1.
inline float fold(float (&lane)[16]) {
  for (int half = 8; half >= 1; half /= 2)
    for (int i = 0; i < half; ++i) lane[i] = lane[i] + lane[i + half];
  return lane[0];
}

// ref_mla.cpp
void rope_pairs(float* x, const float* cosines, const float* sines, int half);
void layer_norm(float* x, const float* w, const float* b, float eps, int n);
void pack_rows(const bf16* const* rows, int count, int columns, bf16* packed);
void pack_columns(const bf16* const* rows, int count, int columns, bf16* packed);
SoftmaxState softmax_row(const float* scores, float scale, int count, int padded, bf16* p);
void index_scores(const float* dots, int64_t ld, const float* weights, int heads, int n, float* out);
void sigmoid_top_k(float* logits, const SigmoidRouting& routing, int32_t* ids, float* weights);

}  // namespace kt::ref
