#include "kernels/wire.h"

#include <cstring>

#include "kernels/in_lines.h"

namespace kt {
namespace {

inline double widen(double x) { return x; }
inline double widen(float x) { return static_cast<double>(x); }
inline double widen(bf16 x) { return static_cast<double>(to_float(x)); }

// Parts may begin and end inside rows: one row is enough work for several threads.
template <class T>
void add_typed(const WireSums& sums, const int32_t* rows, int64_t count, int columns, double* out, int64_t ldo,
               ThreadPool& pool) {
  const T* from = reinterpret_cast<const T*>(sums.at);
  in_lines(pool, count * columns, kWorthAThread, [&](int64_t begin, int64_t end) {
    while (begin < end) {
      const int64_t row = begin / columns, first = begin % columns, n = std::min<int64_t>(columns - first, end - begin);
      double* y = out + rows[row] * ldo + first;
      const T* s = from + row * sums.stride + first;
      for (int64_t i = 0; i < n; ++i) y[i] += widen(s[i]);
      begin += n;
    }
  });
}

}  // namespace

size_t wire_bytes(WireType type) {
  return type == WireType::float64 ? sizeof(double) : type == WireType::float32 ? sizeof(float) : sizeof(bf16);
}

void to_wire(WireType type, const double* from, int64_t count, std::byte* to, ThreadPool& pool) {
  in_lines(pool, count, kWorthAThread, [&](int64_t begin, int64_t end) {
    switch (type) {
      case WireType::float64:
        std::memcpy(to + begin * static_cast<int64_t>(sizeof(double)), from + begin,
                    static_cast<size_t>(end - begin) * sizeof(double));
        break;
      case WireType::float32:
        for (int64_t i = begin; i < end; ++i) reinterpret_cast<float*>(to)[i] = static_cast<float>(from[i]);
        break;
      case WireType::bf16:
        for (int64_t i = begin; i < end; ++i) reinterpret_cast<bf16*>(to)[i] = to_bf16(static_cast<float>(from[i]));
        break;
    }
  });
}

void add_sums(const WireSums& sums, const int32_t* rows, int64_t count, int columns, double* out, int64_t ldo,
              ThreadPool& pool) {
  switch (sums.type) {
    case WireType::float64: return add_typed<double>(sums, rows, count, columns, out, ldo, pool);
    case WireType::float32: return add_typed<float>(sums, rows, count, columns, out, ldo, pool);
    case WireType::bf16: return add_typed<bf16>(sums, rows, count, columns, out, ldo, pool);
  }
}

}  // namespace kt
