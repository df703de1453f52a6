// Chains of VDPBF16PS. Included after loops.h by tables for processors that have it.
//
// The instruction adds a pair of products to each float by two fused multiply-adds, denormals as zero, the upper half's
// product first (Intel SDM; the same to the bit on Zen 5). A pair of *neighbouring* inputs would mix the even and the
// odd sum of a chain (weight.h), so pairs are made of two inputs of one sum: (4i, 4i + 2) is the even pair i of a tile,
// (4i + 1, 4i + 3) the odd pair i, the lower input in the upper half. So each instruction does the work of two FP32
// multiply-adds and needs no weight as a float.

using Pairs = __m512i;  // of sixteen outputs, or the same pair of a row's inputs sixteen times

inline V dot(V sum, Pairs w, Pairs x) { return {_mm512_dpbf16_ps(sum.v, (__m512bh)w, (__m512bh)x)}; }

// The even pairs 0..7 of 32 inputs, then the odd ones.
inline void store_input_pairs(const bf16* x, int32_t* out) {
  alignas(64) static constexpr uint16_t kOrder[32] = {2, 0, 6, 4, 10, 8, 14, 12, 18, 16, 22, 20, 26, 24, 30, 28,
                                                      3, 1, 7, 5, 11, 9, 15, 13, 19, 17, 23, 21, 27, 25, 31, 29};
  _mm512_store_si512(out, _mm512_permutexvar_epi16(_mm512_load_si512(kOrder), _mm512_loadu_si512(x)));
}

// How the formats give pairs i of a tile. kFewestMadeRows: from how many rows on it is faster to make all pairs first.
// kTileGroups: scales always belong to one tile.
struct Bf16Pairs : Bf16Lines {
  static constexpr int kStreams = 4, kFewestMadeRows = kRowBlock + 1;
  static constexpr bool kTileGroups = false;
  [[gnu::always_inline]] static void pairs(const std::byte* tile, int i, Pairs& even, Pairs& odd) {
    const __m512i a = _mm512_loadu_si512(tile + i * 128), b = _mm512_loadu_si512(tile + i * 128 + 64);
    even = _mm512_mask_blend_epi16(0x55555555, _mm512_slli_epi32(a, 16), b);
    odd = _mm512_mask_blend_epi16(0x55555555, a, _mm512_srli_epi32(b, 16));
  }
};

// bf16 bits of all FP8 values / 256, the sign left out: a table of lower and one of upper bytes.
struct Fp8Table {
  alignas(64) uint8_t low[128], high[128], even[64], odd[64];
  constexpr Fp8Table() : low(), high(), even(), odd() {
    for (int c = 0; c < 128; ++c) {
      int bits = (c << 4) + ((127 - 7 - 8) << 7);
      if (c < 8) {  // subnormal: c * 2^-17
        int exponent = 0;
        for (int m = c; m > 1; m /= 2) ++exponent;
        bits = c == 0 ? 0 : ((127 - 17 + exponent) << 7) + ((c << (7 - exponent)) & 0x7f);
      }
      low[c] = static_cast<uint8_t>(bits & 0xff);
      high[c] = static_cast<uint8_t>(bits >> 8);
    }
    for (int r = 0; r < 16; ++r)
      for (int b = 0; b < 4; ++b) {  // bytes 2r and 2r + 1 are the pair; 64 and up: the upper byte
        const int from = 2 * r + (b < 2) + b % 2 * 64;
        even[4 * r + b] = static_cast<uint8_t>(from);
        odd[4 * r + b] = static_cast<uint8_t>(from + 32);
      }
  }
};
alignas(64) static constexpr Fp8Table kFp8Table;

struct Fp8Pairs : Fp8Lines {
  static constexpr int kStreams = 4, kFewestMadeRows = 7;
  static constexpr bool kTileGroups = false;
  [[gnu::always_inline]] static void pairs(const std::byte* tile, int i, Pairs& even, Pairs& odd) {
    const __m512i w = _mm512_loadu_si512(tile + i * 64);
    const __m512i low =
        _mm512_permutex2var_epi8(_mm512_load_si512(kFp8Table.low), w, _mm512_load_si512(kFp8Table.low + 64));
    const __m512i size =
        _mm512_permutex2var_epi8(_mm512_load_si512(kFp8Table.high), w, _mm512_load_si512(kFp8Table.high + 64));
    const __m512i high =
        _mm512_ternarylogic_epi32(size, w, _mm512_set1_epi8(static_cast<char>(0x80)), 0xf8 /* size | (w & sign) */);
    even = _mm512_permutex2var_epi8(low, _mm512_load_si512(kFp8Table.even), high);
    odd = _mm512_permutex2var_epi8(low, _mm512_load_si512(kFp8Table.odd), high);
  }
};

// Nibbles are moved to the lowest bits of their words, where they index the values of load_int4_line.
struct RawInt4Pairs : RawInt4Lines {
  static constexpr int kStreams = 4, kFewestMadeRows = 7;
  static constexpr bool kTileGroups = true;
  [[gnu::always_inline]] static __m512i shifted(__m512i w, int from) {
    // Bytes 0 and 2 of each 32 bits: the eight bits from `from` + 4 and from `from`.
    const auto control = [](int64_t bit) { return (bit + 4) | bit << 16 | (bit + 36) << 32 | (bit + 32) << 48; };
    return _mm512_multishift_epi64_epi8(_mm512_set1_epi64(control(from)), w);
  }
  [[gnu::always_inline]] static void pairs(const std::byte* tile, int i, Pairs& even, Pairs& odd) {
    const __m512i w = _mm512_loadu_si512(tile + i / 2 * 64), values = _mm512_load_si512(kInt4Values);
    even = _mm512_permutexvar_epi16(shifted(w, i % 2 * 8), values);
    odd = _mm512_permutexvar_epi16(shifted(w, i % 2 * 8 + 16), values);
  }
};

constexpr int kMadeBytes = 1024;  // a tile as pairs: even pairs 0, odd pairs 0, even pairs 1...

// acc[r][j][16] = result for row r and panel j. Made: the weights are pairs already.
template <class F, bool Made, int R, int P>
inline void dot_chains(const ChainJob& job, int row, int panel, float* acc, int64_t acc_row) {
  const bf16* x[R];
  for (int r = 0; r < R; ++r) x[r] = job.x.row(job.first + row + r);
  const std::byte* const* panels = job.panels + panel;
  const int64_t scales_at = static_cast<int64_t>(job.w.scales_at()), made_bytes = job.w.k_tiles() * kMadeBytes;
  const int group = F::kScaleBytes ? job.w.group_tiles : job.t1 - job.t0;
  V sum[R][P];
  for (int r = 0; r < R; ++r)
    for (int j = 0; j < P; ++j) sum[r][j] = splat(0.0f);
  for (int t = job.t0; t < job.t1;) {
    const int end = t + group < job.t1 ? t + group : job.t1, g = t / group;
    V part[R][P];
    for (int r = 0; r < R; ++r)
      for (int j = 0; j < P; ++j) part[r][j] = splat(0.0f);
    do {
      alignas(64) int32_t inputs[R][16];
      for (int r = 0; r < R; ++r) store_input_pairs(x[r] + t * kTileK, inputs[r]);
      asm volatile("" : "+m"(inputs));
      const int64_t at = static_cast<int64_t>(t) * F::kTileBytes;
      const int64_t ahead = prefetch_at(job, P, at);
      prefetch_next(job, panel, P, t);
      V even[R][P], odd[R][P];
      for (int r = 0; r < R; ++r)
        for (int j = 0; j < P; ++j) even[r][j] = odd[r][j] = splat(0.0f);
#pragma GCC unroll 8
      for (int i = 0; i < kTileK / 4; ++i) {
        Pairs we[P], wo[P];
        for (int j = 0; j < P; ++j) {
          if constexpr (!Made)
            for (int line = i; line * 64 < F::kTileBytes; line += 8) __builtin_prefetch(panels[j] + ahead + line * 64);
          if constexpr (Made) {
            const std::byte* pairs = job.made + (panel + j) * made_bytes + t * kMadeBytes + i * 128;
            we[j] = _mm512_load_si512(pairs);
            wo[j] = _mm512_load_si512(pairs + 64);
          } else {
            F::pairs(panels[j] + at, i, we[j], wo[j]);
          }
        }
        for (int r = 0; r < R; ++r) {
          const Pairs xe = _mm512_set1_epi32(inputs[r][i]), xo = _mm512_set1_epi32(inputs[r][8 + i]);
          for (int j = 0; j < P; ++j) {
            even[r][j] = dot(even[r][j], we[j], xe);
            odd[r][j] = dot(odd[r][j], wo[j], xo);
          }
        }
      }
      for (int r = 0; r < R; ++r)
        for (int j = 0; j < P; ++j) part[r][j] = add(part[r][j], add(even[r][j], odd[r][j]));
    } while (++t < end && !F::kTileGroups);
    for (int j = 0; j < P; ++j) {
      const V scale = F::scale(panels[j] + scales_at + g * F::kScaleBytes);
      for (int r = 0; r < R; ++r) sum[r][j] = F::kScaleBytes ? fma(scale, part[r][j], sum[r][j]) : part[r][j];
    }
  }
  for (int r = 0; r < R; ++r)
    for (int j = 0; j < P; ++j) store(acc + (row + r) * acc_row + (panel + j) * 16, sum[r][j]);
}

thread_local Scratch made_scratch;

template <class F>
struct DotChains {
  static constexpr int kRows = kBlockRows, kRowUnit = 1, kMaxPanels = F::kStreams;
  static int panels(int rows) { return rows == 1 ? F::kStreams : rows <= 3 ? 4 : 2; }

  // Two panels as pairs, in memory that stays in the L2 cache, when there are rows enough to use them more than once.
  static const std::byte* make(const PackedMatrix& w, const std::byte* const* panels, int count, int rows) {
    if (rows < F::kFewestMadeRows || count != 2) return nullptr;
    std::byte* made = made_scratch.at_least(static_cast<size_t>(2 * w.k_tiles() * kMadeBytes));
    std::byte* out = made;
    for (int j = 0; j < 2; ++j)
      for (int t = 0; t < w.k_tiles(); ++t) {
        const std::byte* tile = panels[j] + static_cast<int64_t>(t) * F::kTileBytes;
        for (int line = 0; line < F::kTileBytes; line += 64) __builtin_prefetch(tile + kPrefetchBytes + line);
#pragma GCC unroll 8
        for (int i = 0; i < kTileK / 4; ++i, out += 128) {
          Pairs even, odd;
          F::pairs(tile, i, even, odd);
          _mm512_store_si512(out, even);
          _mm512_store_si512(out + 64, odd);
        }
      }
    return made;
  }
  static void run(const ChainJob& job, int panels, float* acc) {
    if (job.made)
      cover<F::kStreams, 3>(job.rows, panels, [&]<int R, int P>(int row, int panel) {
        dot_chains<F, true, R, P>(job, row, panel, acc, panels * 16);
      });
    else
      cover<F::kStreams, 3>(job.rows, panels, [&]<int R, int P>(int row, int panel) {
        dot_chains<F, false, R, P>(job, row, panel, acc, panels * 16);
      });
  }
};
