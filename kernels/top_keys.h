#pragma once

#include <cstdint>

namespace kt {

// The positions of the k largest of n scores, ties to the lower position, in ascending order; k <= n. -0 ranks as 0 and
// NaN above or below everything by its sign, so that there are always exactly k. `room` is for n numbers.
void top_keys(const float* scores, int n, int k, int32_t* positions, uint32_t* room);

}  // namespace kt
