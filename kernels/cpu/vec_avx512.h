// Sixteen floats in one AVX-512 register. Included inside an unnamed namespace, after <immintrin.h>.

struct V {
  __m512 v;
};
struct D {  // sixteen doubles
  __m512d lo, hi;
};

inline V splat(float x) { return {_mm512_set1_ps(x)}; }
inline V load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, V a) { _mm512_storeu_ps(p, a.v); }
inline V add(V a, V b) { return {_mm512_add_ps(a.v, b.v)}; }
inline V sub(V a, V b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline V mul(V a, V b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline V div(V a, V b) { return {_mm512_div_ps(a.v, b.v)}; }
inline V fma(V a, V b, V c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline V max(V a, V b) { return {_mm512_max_ps(a.v, b.v)}; }
inline V min(V a, V b) { return {_mm512_min_ps(a.v, b.v)}; }
inline V round_even(V a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
// 2^n for whole n in [-126, 127].
inline V exp2_whole(V n) {
  const __m512i e = _mm512_add_epi32(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(127));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(e, 23))};
}
// Lanes below n from a, the others from b.
inline V first_lanes(int n, V a, V b) {
  const __mmask16 m = n >= 16 ? 0xffff : static_cast<__mmask16>((1u << (n < 0 ? 0 : n)) - 1);
  return {_mm512_mask_blend_ps(m, b.v, a.v)};
}
// Lanes i and i + 8 first, then 4, 2, 1 apart.
inline float sum_lanes(V a) {
  const __m256 h = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  const __m128 d = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(d, _mm_shuffle_ps(d, d, 1)));
}
inline float max_lanes(V a) { return _mm512_reduce_max_ps(a.v); }

inline V load_bf16(const bf16* p) {
  const __m512i w = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(w, 16))};
}
inline void store_bf16(bf16* p, V a) {
  const __m512i u = _mm512_castps_si512(a.v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
  const __m512i r = _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd);
  const __m512i quiet = _mm512_or_si512(u, _mm512_set1_epi32(0x400000));
  const __mmask16 nan = _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q);
  const __m512i w = _mm512_srli_epi32(_mm512_mask_blend_epi32(nan, r, quiet), 16);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(w));
}

// One line of a bf16 tile: inputs 2p (even) and 2p+1 (odd) of 16 outputs.
inline void load_line(const bf16* p, V& even, V& odd) {
  const __m512i w = _mm512_loadu_si512(p);
  even.v = _mm512_castsi512_ps(_mm512_slli_epi32(w, 16));
  odd.v = _mm512_castsi512_ps(_mm512_and_si512(w, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
}

// line[2i] = a[i], line[2i + 1] = b[i]: one line of a bf16 tile whose inputs are a and b.
inline void interleave(const bf16* a, const bf16* b, bf16* line) {
  const __m512i even = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(a)));
  const __m512i odd = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(b)));
  _mm512_storeu_si512(line, _mm512_or_si512(even, _mm512_slli_epi32(odd, 16)));
}
// A bf16 tile whose outputs are 16 rows of 32: line p gets pair p of every row.
inline void transpose_pairs(const bf16* const* rows, bf16* tile) {
  __m512i r[16], t[16];
  for (int i = 0; i < 16; ++i) r[i] = _mm512_loadu_si512(rows[i]);
  for (int i = 0; i < 16; i += 2) {  // pairs of rows, then fours, inside each 128 bits
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {  // r[4g + i]: rows 4g..4g+3, pairs i, i + 4, i + 8, i + 12
    const __m512i low0 = _mm512_shuffle_i32x4(r[i], r[4 + i], 0x88),
                  low1 = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0x88);
    const __m512i high0 = _mm512_shuffle_i32x4(r[i], r[4 + i], 0xdd),
                  high1 = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0xdd);
    _mm512_storeu_si512(tile + i * 32, _mm512_shuffle_i32x4(low0, low1, 0x88));
    _mm512_storeu_si512(tile + (i + 4) * 32, _mm512_shuffle_i32x4(high0, high1, 0x88));
    _mm512_storeu_si512(tile + (i + 8) * 32, _mm512_shuffle_i32x4(low0, low1, 0xdd));
    _mm512_storeu_si512(tile + (i + 12) * 32, _mm512_shuffle_i32x4(high0, high1, 0xdd));
  }
}

inline D load(const double* p) { return {_mm512_loadu_pd(p), _mm512_loadu_pd(p + 8)}; }
inline void store(double* p, D a) {
  _mm512_storeu_pd(p, a.lo);
  _mm512_storeu_pd(p + 8, a.hi);
}
inline D add(D a, D b) { return {_mm512_add_pd(a.lo, b.lo), _mm512_add_pd(a.hi, b.hi)}; }
// to_grid(scale * x)
inline D scaled_to_grid(V x, float scale) {
  const __m512d s = _mm512_set1_pd(scale), shift = _mm512_set1_pd(kGridShift);
  const __m512d lo = _mm512_cvtps_pd(_mm512_castps512_ps256(x.v));
  const __m512d hi = _mm512_cvtps_pd(_mm512_extractf32x8_ps(x.v, 1));
  return {_mm512_sub_pd(_mm512_fmadd_pd(lo, s, shift), shift), _mm512_sub_pd(_mm512_fmadd_pd(hi, s, shift), shift)};
}

// The same of an FP8 tile (kernels/format/fp8.h): bytes become float16 bits, sign and 7 others in their places.
inline void load_fp8_line(const std::byte* tile, int p, V& even, V& odd) {
  __m512i w = _mm512_loadu_si512(tile + p / 2 * 64);
  if (p % 2 == 0) w = _mm512_slli_epi16(w, 8);
  const __m512i h = _mm512_and_si512(_mm512_srai_epi16(w, 1), _mm512_set1_epi16(static_cast<short>(0xbf80)));
  even.v = _mm512_cvtph_ps(_mm512_castsi512_si256(h));
  odd.v = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(h, 1));
}
// The same of a RAWINT4 tile (kernels/format/rawint4.h): nibbles index a table of u - 8 in bf16; the table repeats, so
// the bit above a nibble does not matter.
alignas(64) static constexpr uint16_t kInt4Values[32] = {
    0xc100, 0xc0e0, 0xc0c0, 0xc0a0, 0xc080, 0xc040, 0xc000, 0xbf80, 0x0000, 0x3f80, 0x4000,
    0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0, 0xc100, 0xc0e0, 0xc0c0, 0xc0a0, 0xc080, 0xc040,
    0xc000, 0xbf80, 0x0000, 0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0};
inline void load_int4_line(const std::byte* tile, int p, V& even, V& odd) {
  const __m512i w = _mm512_srli_epi16(_mm512_loadu_si512(tile + p / 4 * 64), static_cast<unsigned>(p % 4 * 4));
  const __m512i line = _mm512_permutexvar_epi16(w, _mm512_load_si512(kInt4Values));
  even.v = _mm512_castsi512_ps(_mm512_slli_epi32(line, 16));
  odd.v = _mm512_castsi512_ps(_mm512_and_si512(line, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
}

// Sixteen int32 sums of products of weights and activations, four bytes each.
struct I {
  __m512i v;
};
inline I zero_i() { return {_mm512_setzero_si512()}; }
inline V to_float(I a) { return {_mm512_cvtepi32_ps(a.v)}; }
inline I sub_i(I a, int b) { return {_mm512_sub_epi32(a.v, _mm512_set1_epi32(b))}; }
struct Line {
  __m512i v;
};
inline Line load_bytes(const std::byte* p) { return {_mm512_loadu_si512(p)}; }
inline Line low_nibbles(Line a) { return {_mm512_and_si512(a.v, _mm512_set1_epi8(15))}; }
inline Line high_nibbles(Line a) { return {_mm512_and_si512(_mm512_srli_epi16(a.v, 4), _mm512_set1_epi8(15))}; }
#ifdef KT_VNNI
constexpr bool kDotKeepsOffset = true;  // weights are used with their offset
template <int Offset>
inline I dot4(I sum, Line w, int x) {
  return {_mm512_dpbusd_epi32(sum.v, w.v, _mm512_set1_epi32(x))};
}
#else
constexpr bool kDotKeepsOffset = false;
// |x| times w with x's sign: pairs stay below 2 * 127^2, so the 16-bit sums do not saturate.
template <int Offset>
inline I dot4(I sum, Line w, int x) {
  const __m512i xs = _mm512_set1_epi32(x);
  const __m512i q = _mm512_sub_epi8(w.v, _mm512_set1_epi8(static_cast<char>(Offset)));
  const __m512i signed_q = _mm512_mask_sub_epi8(q, _mm512_movepi8_mask(xs), _mm512_setzero_si512(), q);
  const __m512i pairs = _mm512_maddubs_epi16(_mm512_abs_epi8(xs), signed_q);
  return {_mm512_add_epi32(sum.v, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))};
}
#endif
// Sixteen whole numbers within int8 as bytes, and their sum.
inline int store_int8(int8_t* p, V a) {
  const __m512i q = _mm512_cvtps_epi32(a.v);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(q));
  return _mm512_reduce_add_epi32(q);
}

// For the measurement of limits.
inline V either(V a, V b) { return {_mm512_or_ps(a.v, b.v)}; }
inline void keep(V& a) { asm volatile("" : "+v"(a.v)); }
inline void keep(I& a) { asm volatile("" : "+v"(a.v)); }
inline void keep(Line& a) { asm volatile("" : "+v"(a.v)); }

constexpr bool kManyRegisters = true;  // for sixteen sums of sixteen floats besides the operands
