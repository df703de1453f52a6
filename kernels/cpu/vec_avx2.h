// Sixteen floats in two AVX2 registers. Included inside an unnamed namespace, after <immintrin.h>.

struct V {
  __m256 a, b;
};
struct D {  // sixteen doubles
  __m256d a, b, c, d;
};

inline V splat(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline V load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, V x) {
  _mm256_storeu_ps(p, x.a);
  _mm256_storeu_ps(p + 8, x.b);
}
inline V add(V x, V y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
inline V sub(V x, V y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
inline V mul(V x, V y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
inline V div(V x, V y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
inline V fma(V x, V y, V z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
inline V max(V x, V y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
inline V min(V x, V y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
inline V round_even(V x) {
  constexpr int kMode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(x.a, kMode), _mm256_round_ps(x.b, kMode)};
}
// 2^n for whole n in [-126, 127].
inline V exp2_whole(V n) {
  const __m256i bias = _mm256_set1_epi32(127);
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n.a), bias), 23)),
          _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n.b), bias), 23))};
}
// Lanes below n from x, the others from y.
inline V first_lanes(int n, V x, V y) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256 ma = _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(n), lane));
  const __m256 mb = _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(n - 8), lane));
  return {_mm256_blendv_ps(y.a, x.a, ma), _mm256_blendv_ps(y.b, x.b, mb)};
}
// Lanes i and i + 8 first, then 4, 2, 1 apart.
inline float sum_lanes(V x) {
  const __m256 h = _mm256_add_ps(x.a, x.b);
  const __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  const __m128 d = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(d, _mm_shuffle_ps(d, d, 1)));
}
inline float max_lanes(V x) {
  const __m256 h = _mm256_max_ps(x.a, x.b);
  const __m128 q = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  const __m128 d = _mm_max_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_max_ss(d, _mm_shuffle_ps(d, d, 1)));
}

inline __m256 widen_bf16(const bf16* p) {
  const __m256i w = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(w, 16));
}
inline V load_bf16(const bf16* p) { return {widen_bf16(p), widen_bf16(p + 8)}; }
inline __m256i round_to_bf16(__m256 x) {
  const __m256i u = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
  const __m256i r = _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), odd);
  const __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  return _mm256_srli_epi32(_mm256_blendv_epi8(r, quiet, nan), 16);
}
inline void store_bf16(bf16* p, V x) {
  const __m256i w = _mm256_packus_epi32(round_to_bf16(x.a), round_to_bf16(x.b));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(w, 0xd8));
}

// One line of a bf16 tile: inputs 2p (even) and 2p+1 (odd) of 16 outputs.
inline void load_line(const bf16* p, V& even, V& odd) {
  const __m256i w = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 16));
  const __m256i high = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
  even = {_mm256_castsi256_ps(_mm256_slli_epi32(w, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(x, 16))};
  odd = {_mm256_castsi256_ps(_mm256_and_si256(w, high)), _mm256_castsi256_ps(_mm256_and_si256(x, high))};
}

// line[2i] = a[i], line[2i + 1] = b[i]: one line of a bf16 tile whose inputs are a and b.
inline void interleave(const bf16* a, const bf16* b, bf16* line) {
  for (int half = 0; half < 16; half += 8) {
    const __m256i even = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(a + half)));
    const __m256i odd = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(b + half)));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(line + 2 * half), _mm256_or_si256(even, _mm256_slli_epi32(odd, 16)));
  }
}
// A bf16 tile whose outputs are 16 rows of 32: line p gets pair p of every row. Four blocks of 8 rows and 8 pairs.
inline void transpose_pairs(const bf16* const* rows, bf16* tile) {
  for (int first = 0; first < 16; first += 8)
    for (int pair = 0; pair < 16; pair += 8) {
      __m256i r[8], t[8];
      for (int i = 0; i < 8; ++i)
        r[i] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows[first + i] + 2 * pair));
      for (int i = 0; i < 8; i += 2) {  // pairs of rows, then fours, inside each 128 bits
        t[i] = _mm256_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_epi32(r[i], r[i + 1]);
      }
      for (int i = 0; i < 8; i += 4) {
        r[i] = _mm256_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm256_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm256_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm256_unpackhi_epi64(t[i + 1], t[i + 3]);
      }
      for (int i = 0; i < 4; ++i) {
        auto* line = reinterpret_cast<__m256i*>(tile + (pair + i) * 32 + 2 * first);
        _mm256_storeu_si256(line, _mm256_permute2x128_si256(r[i], r[4 + i], 0x20));
        _mm256_storeu_si256(line + 8, _mm256_permute2x128_si256(r[i], r[4 + i], 0x31));
      }
    }
}

inline D load(const double* p) {
  return {_mm256_loadu_pd(p), _mm256_loadu_pd(p + 4), _mm256_loadu_pd(p + 8), _mm256_loadu_pd(p + 12)};
}
inline void store(double* p, D x) {
  _mm256_storeu_pd(p, x.a);
  _mm256_storeu_pd(p + 4, x.b);
  _mm256_storeu_pd(p + 8, x.c);
  _mm256_storeu_pd(p + 12, x.d);
}
inline D add(D x, D y) {
  return {_mm256_add_pd(x.a, y.a), _mm256_add_pd(x.b, y.b), _mm256_add_pd(x.c, y.c), _mm256_add_pd(x.d, y.d)};
}
inline __m256d quarter_to_grid(__m128 x, __m256d scale) {
  const __m256d shift = _mm256_set1_pd(kGridShift);
  return _mm256_sub_pd(_mm256_fmadd_pd(_mm256_cvtps_pd(x), scale, shift), shift);
}
// to_grid(scale * x)
inline D scaled_to_grid(V x, float scale) {
  const __m256d s = _mm256_set1_pd(scale);
  return {quarter_to_grid(_mm256_castps256_ps128(x.a), s), quarter_to_grid(_mm256_extractf128_ps(x.a, 1), s),
          quarter_to_grid(_mm256_castps256_ps128(x.b), s), quarter_to_grid(_mm256_extractf128_ps(x.b, 1), s)};
}

// FP8 values / 256, of the upper bytes of words: bytes become float16 bits, sign and 7 others in their places.
// VCVTPH2PS reads subnormal ones too, whatever MXCSR says.
inline V fp8_to_float(__m256i words) {
  const __m256i halves = _mm256_and_si256(_mm256_srai_epi16(words, 1), _mm256_set1_epi16(static_cast<int16_t>(0xbf80)));
  return {_mm256_cvtph_ps(_mm256_castsi256_si128(halves)), _mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1))};
}
// The same of an FP8 tile (kernels/format/fp8.h).
inline void load_fp8_line(const std::byte* tile, int p, V& even, V& odd) {
  const auto* words = reinterpret_cast<const __m256i*>(tile + p / 2 * 64);
  const __m256i e = _mm256_loadu_si256(words), o = _mm256_loadu_si256(words + 1);
  even = fp8_to_float(p % 2 ? e : _mm256_slli_epi16(e, 8));
  odd = fp8_to_float(p % 2 ? o : _mm256_slli_epi16(o, 8));
}
// Four lines of half a RAWINT4 tile's 64-byte vector (kernels/format/rawint4.h), signed, in the upper halves of bytes:
// bytes 0 and 1 of an output's four hold its even inputs, 2 and 3 the odd ones; `low` lines 0 and 2, `high` 1 and 3.
struct Int4Lines {
  __m256i low, high;
};
inline Int4Lines load_int4_lines(const std::byte* half) {
  const __m256i q = _mm256_xor_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(half)),
                                     _mm256_set1_epi8(static_cast<char>(0x88)));
  const __m256i upper = _mm256_set1_epi8(static_cast<char>(0xf0));
  return {_mm256_and_si256(_mm256_slli_epi32(q, 4), upper), _mm256_and_si256(q, upper)};
}
// The even (0) or odd (1) inputs' weights of line p times 2^28: an integer whose upper byte is theirs, converted, which
// is one instruction less than a subtraction from bits put into a float. The scale takes the factor out again: powers
// of two commute with rounding unless something overflows or is too small for a float.
constexpr float kInt4Factor = 0x1p28f;
inline __m256 int4_to_float(Int4Lines x, int p, int odd) {
  const __m256i byte1 = _mm256_set_epi32(0x0d808080, 0x09808080, 0x05808080, 0x01808080,  //
                                         0x0d808080, 0x09808080, 0x05808080, 0x01808080);
  const __m256i byte2 = _mm256_set_epi32(0x0e808080, 0x0a808080, 0x06808080, 0x02808080,  //
                                         0x0e808080, 0x0a808080, 0x06808080, 0x02808080);
  const __m256i v = p % 2 ? x.high : x.low;
  switch (p % 4 / 2 + 2 * odd) {
    case 0: return _mm256_cvtepi32_ps(_mm256_slli_epi32(v, 24));
    case 1: return _mm256_cvtepi32_ps(_mm256_shuffle_epi8(v, byte1));
    case 2: return _mm256_cvtepi32_ps(_mm256_shuffle_epi8(v, byte2));
    default: return _mm256_cvtepi32_ps(_mm256_and_si256(v, _mm256_set1_epi32(static_cast<int>(0xff000000u))));
  }
}
inline void load_int4_line(const std::byte* tile, int p, V& even, V& odd) {
  const Int4Lines a = load_int4_lines(tile + p / 4 * 64), b = load_int4_lines(tile + p / 4 * 64 + 32);
  even = {int4_to_float(a, p, 0), int4_to_float(b, p, 0)};
  odd = {int4_to_float(a, p, 1), int4_to_float(b, p, 1)};
}

// Sixteen int32 sums of products of weights and activations, four bytes each.
struct I {
  __m256i a, b;
};
inline I zero_i() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
inline V to_float(I x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
inline I sub_i(I x, int y) {
  const __m256i v = _mm256_set1_epi32(y);
  return {_mm256_sub_epi32(x.a, v), _mm256_sub_epi32(x.b, v)};
}
struct Line {
  __m256i a, b;
};
inline Line load_bytes(const std::byte* p) {
  const auto* v = reinterpret_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(v), _mm256_loadu_si256(v + 1)};
}
inline Line low_nibbles(Line x) {
  const __m256i m = _mm256_set1_epi8(15);
  return {_mm256_and_si256(x.a, m), _mm256_and_si256(x.b, m)};
}
inline Line high_nibbles(Line x) { return low_nibbles({_mm256_srli_epi16(x.a, 4), _mm256_srli_epi16(x.b, 4)}); }
constexpr bool kDotKeepsOffset = false;
// |x| times w with x's sign: pairs stay below 2 * 127^2, so the 16-bit sums do not saturate.
template <int Offset>
inline __m256i dot4_half(__m256i sum, __m256i w, __m256i x) {
  const __m256i q = _mm256_sub_epi8(w, _mm256_set1_epi8(static_cast<char>(Offset)));
  const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(x), _mm256_sign_epi8(q, x));
  return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
template <int Offset>
inline I dot4(I sum, Line w, int x) {
  const __m256i xs = _mm256_set1_epi32(x);
  return {dot4_half<Offset>(sum.a, w.a, xs), dot4_half<Offset>(sum.b, w.b, xs)};
}
// Sixteen whole numbers within int8 as bytes, and their sum.
inline int store_int8(int8_t* p, V x) {
  const __m256i a = _mm256_cvtps_epi32(x.a), b = _mm256_cvtps_epi32(x.b);
  alignas(32) int32_t q[16];
  _mm256_store_si256(reinterpret_cast<__m256i*>(q), a);
  _mm256_store_si256(reinterpret_cast<__m256i*>(q + 8), b);
  int sum = 0;
  for (int i = 0; i < 16; ++i) {
    p[i] = static_cast<int8_t>(q[i]);
    sum += q[i];
  }
  return sum;
}

// For the measurement of limits.
inline V either(V x, V y) { return {_mm256_or_ps(x.a, y.a), _mm256_or_ps(x.b, y.b)}; }
inline void keep(V& a) { asm volatile("" : "+x"(a.a), "+x"(a.b)); }
inline void keep(I& a) { asm volatile("" : "+x"(a.a), "+x"(a.b)); }
inline void keep(Int4Lines& a) { asm volatile("" : "+x"(a.low), "+x"(a.high)); }
inline void keep(Line& a) { asm volatile("" : "+x"(a.a), "+x"(a.b)); }

constexpr bool kManyRegisters = false;  // for sixteen sums of sixteen floats besides the operands
