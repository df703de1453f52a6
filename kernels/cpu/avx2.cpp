// AVX2 and FMA: two registers where the loops say one.

#include <immintrin.h>

#include <cstdlib>

#include "kernels/cpu/tables.h"

namespace kt {
namespace {
#include "kernels/cpu/vec_avx2.h"
// (the loops need the vector type first)
#include "kernels/cpu/loops.h"
#include "kernels/cpu/scratch.h"
// (likewise)
#include "kernels/cpu/chains_avx2.h"
}  // namespace

extern const Ops kAvx2Ops = make_table<Avx2Table>("avx2");

}  // namespace kt
