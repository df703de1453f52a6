// AVX-512 F, BW, DQ, VL; compiled a second time with VNNI for 8-bit activations. FP32 multiply-add rather than
// VDPBF16PS, whose order of adding is another one than the tiles'.

#include <immintrin.h>

#include "kernels/cpu/tables.h"

namespace kt {
namespace {
#include "kernels/cpu/vec_avx512.h"
// (the loops need the vector type first)
#include "kernels/cpu/loops.h"
}  // namespace

#ifdef KT_VNNI
extern const Ops kAvx512VnniOps = make_table<VectorTable>("avx512-vnni");
#else
extern const Ops kAvx512Ops = make_table<VectorTable>("avx512");
#endif

}  // namespace kt
