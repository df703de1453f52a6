#include "kernels/simt/tensor_core.h"

#include <bit>
#include <cmath>
#include <cstring>

namespace simt {
namespace {

// The eight results of a row at once.
typedef int32_t Ints __attribute__((vector_size(32)));
typedef int64_t Longs __attribute__((vector_size(64)));
typedef float Floats __attribute__((vector_size(32)));
typedef double Doubles __attribute__((vector_size(64)));

constexpr int32_t kNothing = -2000;  // exponent of zero, below all others even when another is added

// A bf16 is significand 2^(exponent - 7).
bool split(uint16_t x, int32_t* significand, int32_t* exponent) {
  const int32_t e = x >> 7 & 255, m = (x & 127) | (e ? 128 : 0);
  *significand = x & 0x8000 ? -m : m;
  *exponent = m ? (e ? e : 1) - 127 : kNothing;
  return e != 255;
}
float value(uint16_t x) { return std::bit_cast<float>(static_cast<uint32_t>(x) << 16); }

struct Factors {
  Ints significand[16], exponent[16];
};
// Adds kTerms products, of the columns from k on of a row of a, to the row's results d.
template <int kTerms, int kBits>
void add_products(const int32_t* as, const int32_t* ae, const Factors& b, int k, float* d) {
  Ints bits;
  std::memcpy(&bits, d, sizeof bits);
  const Ints e = bits >> 23 & 255, m = (bits & 0x7fffff) | (e != 0 ? 0x800000 : 0);
  const Ints exponent = m != 0 ? (e != 0 ? e : 1) - 127 : kNothing;
  constexpr int32_t kLeast = -108 - kBits;  // seen with results near 2^-126
  Ints top = exponent > kLeast ? exponent : kLeast;
  for (int t = k; t < k + kTerms; ++t) {
    const Ints x = ae[t] + b.exponent[t];
    top = x > top ? x : top;
  }
  const auto cut = [&](Ints size, Ints power, Ints sign) {
    const Ints shift = top - power, kept = size >> (shift < 31 ? shift : 31);
    return (kept ^ sign) - sign;
  };
  Doubles sum = __builtin_convertvector(cut(m << (kBits - 23), exponent, bits >> 31), Doubles);
  for (int from = k; from < k + kTerms; from += 8) {  // eight products fit into 32 bits
    Ints part = {};
    for (int t = from; t < from + 8; ++t) {
      const Ints p = as[t] * b.significand[t], sign = p >> 31;
      part += cut(((p ^ sign) - sign) << (kBits - 14), ae[t] + b.exponent[t], sign);
    }
    sum += __builtin_convertvector(part, Doubles);
  }
  sum *= reinterpret_cast<Doubles>((__builtin_convertvector(top, Longs) + (1023 - kBits)) << 52);

  // Cut off to float: by integers where floats are so small that they may count as zero.
  const Longs kept = reinterpret_cast<Longs>(sum) & ~((int64_t{1} << 29) - 1);
  const Floats result = __builtin_convertvector(reinterpret_cast<Doubles>(kept), Floats);
  std::memcpy(d, &result, sizeof result);
  for (int n = 0; n < 8; ++n)
    if (sum[n] != 0.0 && std::fabs(sum[n]) < 0x1p-126)
      d[n] = std::bit_cast<float>(static_cast<uint32_t>(std::fabs(sum[n]) * 0x1p149) | (sum[n] < 0 ? 0x80000000u : 0u));
}

}  // namespace

void multiply(TensorCore kind, const uint16_t (&a)[16][16], const uint16_t (&b)[16][8], float (&d)[16][8]) {
  if (kind == TensorCore::kFusedAdd) {
    for (int i = 0; i < 16; ++i)
      for (int k = 0; k < 16; ++k)
        for (int n = 0; n < 8; ++n) d[i][n] = std::fma(value(a[i][k]), value(b[k][n]), d[i][n]);
    return;
  }
  Factors factors;
  bool b_finite = true;
  for (int k = 0; k < 16; ++k) {
    int32_t significand[8], exponent[8];
    for (int n = 0; n < 8; ++n) b_finite &= split(b[k][n], &significand[n], &exponent[n]);
    std::memcpy(&factors.significand[k], significand, sizeof significand);
    std::memcpy(&factors.exponent[k], exponent, sizeof exponent);
  }
  for (int i = 0; i < 16; ++i) {
    int32_t as[16], ae[16];
    bool finite = b_finite;
    for (int k = 0; k < 16; ++k) finite &= split(a[i][k], &as[k], &ae[k]);
    for (int n = 0; n < 8; ++n) finite &= (std::bit_cast<uint32_t>(d[i][n]) & 0x7f800000u) != 0x7f800000u;
    if (!finite) {  // a NaN's bits are always the same
      for (int n = 0; n < 8; ++n) {
        double sum = d[i][n];
        for (int k = 0; k < 16; ++k) sum += static_cast<double>(value(a[i][k])) * value(b[k][n]);
        d[i][n] = std::isnan(sum) ? std::bit_cast<float>(0x7fffffffu) : static_cast<float>(sum);
      }
    } else if (kind == TensorCore::kAmpere) {
      add_products<8, 24>(as, ae, factors, 0, d[i]);
      add_products<8, 24>(as, ae, factors, 8, d[i]);
    } else {
      add_products<16, 25>(as, ae, factors, 0, d[i]);
    }
  }
}

void multiply(const int8_t (&a)[16][32], const int8_t (&b)[32][8], int32_t (&d)[16][8]) {
  for (int i = 0; i < 16; ++i)
    for (int n = 0; n < 8; ++n) {
      int32_t sum = 0;
      for (int k = 0; k < 32; ++k) sum += a[i][k] * b[k][n];
      d[i][n] = static_cast<int32_t>(static_cast<uint32_t>(d[i][n]) + static_cast<uint32_t>(sum));
    }
}

}  // namespace simt
