#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/thread_pool.h"

namespace kt {

// What sums of experts are between machines. float64 is exact; the others round each machine's sum once, to values that
// are again on the grid of kernels/numeric.h.
enum class WireType : uint8_t { float64, float32, bf16 };

size_t wire_bytes(WireType type);  // of one value

// to[i] = from[i] as it goes over the wire. `count` values.
void to_wire(WireType type, const double* from, int64_t count, std::byte* to, ThreadPool& pool);

// (rows, stride) sums as they came.
struct WireSums {
  WireType type = WireType::float64;
  const std::byte* at = nullptr;
  int64_t stride = 0;
};
// out[rows[i]] += sums[i]: rows of `columns` values; out is (any, ldo).
void add_sums(const WireSums& sums, const int32_t* rows, int64_t count, int columns, double* out, int64_t ldo,
              ThreadPool& pool);

}  // namespace kt
