// AVX-512 F, BW, DQ, VL; compiled a second time with VNNI for 8-bit activations. FP32 multiply-add rather than
// VDPBF16PS, whose order of adding is another one than the tiles'.

#include <immintrin.h>

#include "kernels/cpu/tables.h"

namespace kt {
namespace {
#include "kernels/cpu/vec_avx512.h"
// (the loops need the vector type first)
#include "kernels/cpu/loops.h"

#ifdef KT_VNNI
// The limit for bf16 counts VDPBF16PS where there is one, although the loops have to do without it.
__attribute__((target("avx512bf16"))) double multiply_bf16_dots(int64_t rounds) {
  const __m512bh a = (__m512bh)_mm512_set1_epi16(0x3f80);
  __m512 sum[12];
  for (__m512& s : sum) s = _mm512_setzero_ps();
  for (int64_t n = 0; n < rounds; ++n) {
#pragma GCC unroll 12
    for (__m512& s : sum) s = _mm512_dpbf16_ps(s, a, a);
#pragma GCC unroll 12
    for (__m512& s : sum) asm volatile("" : "+v"(s));
  }
  return static_cast<double>(rounds) * 12 * 16 * 4;
}
struct VnniTable : VectorTable {
  static double multiply(bool int8, int64_t rounds) {
    return !int8 && __builtin_cpu_supports("avx512bf16") ? multiply_bf16_dots(rounds) : multiply_vectors(int8, rounds);
  }
};
#endif
}  // namespace

#ifdef KT_VNNI
extern const Ops kAvx512VnniOps = make_table<VnniTable>("avx512-vnni");
#else
extern const Ops kAvx512Ops = make_table<VectorTable>("avx512");
#endif

}  // namespace kt
