#pragma once

#include "kernels/ops.h"

namespace kt {

extern const Ops kRefOps;          // ref.cpp
extern const Ops kAvx2Ops;         // avx2.cpp
extern const Ops kAvx512Ops;       // avx512.cpp
extern const Ops kAvx512VnniOps;   // avx512.cpp once more, with VNNI
extern const Ops kAvx512Bf16Ops;   // avx512.cpp a third time, with VNNI, BF16 and VBMI
extern const Ops kAmxOps;          // amx.cpp
extern const Ops kAmxEmulatedOps;  // amx.cpp once more, on tiles in software

}  // namespace kt
