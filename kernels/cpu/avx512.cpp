// AVX-512 F, BW, DQ, VL. FP32 multiply-add rather than VDPBF16PS, whose order of adding is another one than the tiles'.

#include <immintrin.h>

#include "kernels/cpu/tables.h"

namespace kt {
namespace {
#include "kernels/cpu/vec_avx512.h"
// (the loops need the vector type first)
#include "kernels/cpu/loops.h"
}  // namespace

extern const Ops kAvx512Ops = make_table<VectorChains>("avx512");

}  // namespace kt
