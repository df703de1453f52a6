// AVX-512 F, BW, DQ, VL; compiled a second time with VNNI for 8-bit activations, and a third time with BF16 and VBMI
// too. The first two multiply bf16 as FP32.

#include <immintrin.h>

#include <cstdlib>

#include "kernels/cpu/tables.h"

namespace kt {
namespace {
#include "kernels/cpu/vec_avx512.h"
// (the loops need the vector type first)
#include "kernels/cpu/loops.h"

#ifdef KT_BF16
#include "kernels/cpu/scratch.h"
// (likewise)
#include "kernels/cpu/dots_avx512.h"

struct DotTable : VectorTable {
  using Bf16 = DotChains<Bf16Pairs>;
  using Fp8 = DotChains<Fp8Pairs>;
  using RawInt4 = DotChains<RawInt4Pairs>;
  static double multiply(bool int8, int64_t rounds) {
    if (int8) return multiply_vectors(int8, rounds);
    const Pairs one = _mm512_set1_epi16(0x3f80);
    return 16 * 4 * multiply_sums(rounds, splat(0.0f), [one](V& sum) { keep(sum = dot(sum, one, one)); });
  }
};
#endif
}  // namespace

#if defined(KT_BF16)
extern const Ops kAvx512Bf16Ops = make_table<DotTable>("avx512-bf16");
#elif defined(KT_VNNI)
extern const Ops kAvx512VnniOps = make_table<VectorTable>("avx512-vnni");
#else
extern const Ops kAvx512Ops = make_table<VectorTable>("avx512");
#endif

}  // namespace kt
