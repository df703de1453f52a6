// AVX2 and FMA: two registers where the loops say one.

#include <immintrin.h>

#include "kernels/cpu/tables.h"

namespace kt {
namespace {
#include "kernels/cpu/vec_avx2.h"
// (the loops need the vector type first)
#include "kernels/cpu/loops.h"
}  // namespace

extern const Ops kAvx2Ops = make_table<VectorTable>("avx2");

}  // namespace kt
