// Chains in AVX2's sixteen registers. Included after loops.h.
//
// The sums of one tile stay in registers: of one row and two panels, or two rows and one panel, the even and the odd
// ones together; of up to five rows first the even ones, then the odd ones (ten registers of sums, two of weights, one
// input in all lanes; with a sixth row g++ keeps sums in memory). What adds up over tiles and groups lies in memory,
// which the L1 cache holds.

// Inputs of R rows of a tile, for one lane each: a compiler that sees registers would shuffle them instead.
template <int R>
struct FloatInputs {
  alignas(32) float even[R][16], odd[R][16];
};
template <int R>
[[gnu::always_inline]] inline void load_inputs(const bf16* const* x, int t, FloatInputs<R>& in) {
  for (int r = 0; r < R; ++r) {
    V e, o;
    load_line(x[r] + t * kTileK, e, o);
    store(in.even[r], e);
    store(in.odd[r], o);
  }
  asm volatile("" : "+m"(in));
}

// x in all lanes, read where this is written: g++ would read many at once, and keep sums in memory for it.
[[gnu::always_inline]] inline V broadcast(const float& x) {
  __m256 v;
  asm volatile("vbroadcastss %1, %0" : "=x"(v) : "m"(x));
  return {v, v};
}

// even and odd sums of RAWINT4 tiles that are turned into floats four lines at a time, for which there are registers
// enough beside up to eight sums.
template <int W, int R>
[[gnu::always_inline]] inline void add_int4_lines(const std::byte* const (&tiles)[W], const FloatInputs<R>& in,
                                                  V (&even)[R][W], V (&odd)[R][W]) {
#pragma GCC unroll 1
  for (int q = 0; q < 4; ++q)
    for (int w = 0; w < W; ++w) {
      Int4Lines a = load_int4_lines(tiles[w] + q * 64), b = load_int4_lines(tiles[w] + q * 64 + 32);
      keep(a), keep(b);
#pragma GCC unroll 4
      for (int p = 0; p < 4; ++p) {
        const V we = {int4_to_float(a, p, 0), int4_to_float(b, p, 0)};
        for (int r = 0; r < R; ++r) even[r][w] = fma(broadcast(in.even[r][4 * q + p]), we, even[r][w]);
        const V wo = {int4_to_float(a, p, 1), int4_to_float(b, p, 1)};
        for (int r = 0; r < R; ++r) odd[r][w] = fma(broadcast(in.odd[r][4 * q + p]), wo, odd[r][w]);
      }
    }
}

// part[r][j..] += even + odd sum of the tile at `at`, for W panels. Only lines that are read together are unrolled: of
// more, g++ keeps too much at hand.
template <class F, int W, int R, int P>
[[gnu::always_inline]] inline void add_tile(const std::byte* const* weights, int64_t at, int j,
                                            const FloatInputs<R>& in, V (&part)[R][P]) {
  constexpr bool kTogether = R * W <= 2, kInt4 = F::kTileBytes == RawInt4Lines::kTileBytes;
  constexpr int kLines = kInt4 ? 4 : 2, kParts = kTileK / 2 / kLines, kPartBytes = F::kTileBytes / kParts;
  const std::byte* tiles[W];
  for (int w = 0; w < W; ++w) tiles[w] = weights[j + w] + at;
  V even[R][W], odd[R][W];
  for (int r = 0; r < R; ++r)
    for (int w = 0; w < W; ++w) even[r][w] = odd[r][w] = splat(0.0f);
  if constexpr (kTogether && kInt4) {
    add_int4_lines(tiles, in, even, odd);
  } else {
#pragma GCC unroll 1
    for (int q = 0; q < kParts; ++q)
#pragma GCC unroll 4
      for (int p = 0; p < kLines; ++p)
        for (int w = 0; w < W; ++w) {
          V we, wo;
          F::line(tiles[w] + q * kPartBytes, p, we, wo);
          for (int r = 0; r < R; ++r) {
            even[r][w] = fma(broadcast(in.even[r][kLines * q + p]), we, even[r][w]);
            if (kTogether) odd[r][w] = fma(broadcast(in.odd[r][kLines * q + p]), wo, odd[r][w]);
          }
        }
#pragma GCC unroll 1
    for (int q = 0; !kTogether && q < kParts; ++q)
#pragma GCC unroll 4
      for (int p = 0; p < kLines; ++p)
        for (int w = 0; w < W; ++w) {
          V we, wo;
          F::line(tiles[w] + q * kPartBytes, p, we, wo);
          for (int r = 0; r < R; ++r) odd[r][w] = fma(broadcast(in.odd[r][kLines * q + p]), wo, odd[r][w]);
        }
  }
  for (int r = 0; r < R; ++r)
    for (int w = 0; w < W; ++w) part[r][j + w] = add(part[r][j + w], add(even[r][w], odd[r][w]));
}

// acc[r][j][16] = result for row r and panel j. Weights: how tiles are read: by F, or as bf16 tiles made from it.
template <class F, class Weights, int R, int P>
inline void float_chains(const ChainJob& job, int row, int panel, float* acc, int64_t acc_row) {
  // Turning FP8 into floats takes longer than one panel's multiply-adds wait for each other.
  constexpr int kWide = R == 1 && P % 2 == 0 && Weights::kTileBytes != Fp8Lines::kTileBytes ? 2 : 1;
  const bf16* x[R];
  for (int r = 0; r < R; ++r) x[r] = job.x.row(job.first + row + r);
  const std::byte* const* panels = job.panels + panel;
  const std::byte* weights[P];
  for (int j = 0; j < P; ++j)
    weights[j] =
        job.made ? job.made + (panel + j) * static_cast<int64_t>(job.w.k_tiles()) * Weights::kTileBytes : panels[j];
  const int64_t scales_at = static_cast<int64_t>(job.w.scales_at());
  const int group = F::kScaleBytes ? job.w.group_tiles : job.t1 - job.t0;
  V sum[R][P];
  for (int r = 0; r < R; ++r)
    for (int j = 0; j < P; ++j) sum[r][j] = splat(0.0f);
  for (int t = job.t0; t < job.t1;) {
    const int end = t + group < job.t1 ? t + group : job.t1, g = t / group;
    V part[R][P];
    for (int r = 0; r < R; ++r)
      for (int j = 0; j < P; ++j) part[r][j] = splat(0.0f);
    for (; t < end; ++t) {
      FloatInputs<R> in;
      load_inputs<R>(x, t, in);
      const int64_t ahead = prefetch_at(job, P, static_cast<int64_t>(t) * F::kTileBytes);
      prefetch_next(job, panel, P, t);
      for (int j = 0; j < P; j += kWide) {
        if (!job.made && !job.block)
          for (int w = 0; w < kWide; ++w)
            for (int at = 0; at < F::kTileBytes; at += 64) __builtin_prefetch(panels[j + w] + ahead + at);
        add_tile<Weights, kWide>(weights, static_cast<int64_t>(t) * Weights::kTileBytes, j, in, part);
      }
    }
    for (int j = 0; j < P; ++j) {
      V scale = F::scale(panels[j] + scales_at + g * F::kScaleBytes);
      if (F::kTileBytes == RawInt4Lines::kTileBytes) scale = mul(scale, splat(1.0f / kInt4Factor));
      for (int r = 0; r < R; ++r) sum[r][j] = F::kScaleBytes ? fma(scale, part[r][j], sum[r][j]) : part[r][j];
    }
  }
  for (int r = 0; r < R; ++r)
    for (int j = 0; j < P; ++j) store(acc + (row + r) * acc_row + (panel + j) * 16, sum[r][j]);
}

// FP8 and int4 tiles are turned into bf16 tiles, which is exact, when there are rows enough to use them more than once.
constexpr int kFewestMadeRows = 6;
thread_local Scratch made_scratch;

// Line p of a bf16 tile, the inverse of load_line.
[[gnu::always_inline]] inline void store_line(std::byte* line, V even, V odd) {
  const __m256i high = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
  const auto pairs = [high](__m256 e, __m256 o) {
    return _mm256_or_si256(_mm256_srli_epi32(_mm256_castps_si256(e), 16),
                           _mm256_and_si256(_mm256_castps_si256(o), high));
  };
  _mm256_store_si256(reinterpret_cast<__m256i*>(line), pairs(even.a, odd.a));
  _mm256_store_si256(reinterpret_cast<__m256i*>(line + 32), pairs(even.b, odd.b));
}

template <class F>
struct FloatChains {
  static constexpr int kRows = 5, kRowUnit = 1, kMaxPanels = F::kStreams;
  static int panels(int rows) { return VectorChains<F>::panels(rows); }

  static const std::byte* make(const PackedMatrix& w, const std::byte* const* panels, int count, int rows) {
    if (F::kTileBytes == Bf16Lines::kTileBytes || rows < kFewestMadeRows) return nullptr;
    std::byte* made = made_scratch.at_least(static_cast<size_t>(count * w.k_tiles() * Bf16Lines::kTileBytes));
    std::byte* out = made;
    for (int j = 0; j < count; ++j)
      for (int t = 0; t < w.k_tiles(); ++t) {
        const std::byte* tile = panels[j] + static_cast<int64_t>(t) * F::kTileBytes;
        for (int at = 0; at < F::kTileBytes; at += 64) __builtin_prefetch(tile + kPrefetchBytes + at);
#pragma GCC unroll 16
        for (int p = 0; p < kTileK / 2; ++p, out += 64) {
          V even, odd;
          F::line(tile, p, even, odd);
          store_line(out, even, odd);
        }
      }
    return made;
  }
  static void run(const ChainJob& job, int panels, float* acc) {
    if (job.made)
      cover<F::kStreams, 2>(job.rows, panels, [&]<int R, int P>(int row, int panel) {
        float_chains<F, Bf16Lines, R, P>(job, row, panel, acc, panels * 16);
      });
    else
      cover<F::kStreams, 2>(job.rows, panels, [&]<int R, int P>(int row, int panel) {
        float_chains<F, F, R, P>(job, row, panel, acc, panels * 16);
      });
  }
};

// int4 weights (0..15) times activations (-127..127): the 16-bit sums of a tile's eight lines stay below 8 * 2 * 15 *
// 127 < 2^15, so they are added up before they are widened, and the offset is left in.
struct Avx2Products {
  template <class F>
  static constexpr bool kKeepsOffset = F::kOffset == 8;
  template <class F, int R, int P>
  [[gnu::always_inline]] static void add(const ChainJob& job, const std::byte* const* panels, const int8_t* const* x,
                                         int t, I (&dot)[R][P]) {
    int quads[R][8];
    for (int r = 0; r < R; ++r) __builtin_memcpy(quads[r], x[r] + t * kTileK, sizeof quads[r]);
    asm volatile("" : "+m"(quads));
    const int64_t at = static_cast<int64_t>(t) * F::kTileBytes, ahead = prefetch_at(job, P, at);
    for (int j = 0; j < P; ++j) {
      if (!job.block)
        for (int line = 0; line < F::kTileBytes; line += 64) __builtin_prefetch(panels[j] + ahead + line);
      add_tile<F>(panels[j] + at, j, quads, dot);
    }
  }

 private:
  template <class F, int R, int P>
  [[gnu::always_inline]] static void add_tile(const std::byte* tile, int j, const int (&quads)[R][8], I (&dot)[R][P]) {
    I sums[R];
    if constexpr (kKeepsOffset<F>) {
      for (int r = 0; r < R; ++r) sums[r] = zero_i();
#pragma GCC unroll 1
      for (int p = 0; p < 4; ++p)
        for (int half = 0; half < 8; half += 4) {  // the low nibbles of 64 bytes, and the high ones
          const Line w = F::line(tile + p * 64, half);
          for (int r = 0; r < R; ++r) {
            const __m256i x = _mm256_set1_epi32(quads[r][p + half]);
            sums[r].a = _mm256_add_epi16(sums[r].a, _mm256_maddubs_epi16(w.a, x));
            sums[r].b = _mm256_add_epi16(sums[r].b, _mm256_maddubs_epi16(w.b, x));
            keep(sums[r]);
          }
        }
      const __m256i ones = _mm256_set1_epi16(1);
      for (int r = 0; r < R; ++r) {
        dot[r][j].a = _mm256_add_epi32(dot[r][j].a, _mm256_madd_epi16(sums[r].a, ones));
        dot[r][j].b = _mm256_add_epi32(dot[r][j].b, _mm256_madd_epi16(sums[r].b, ones));
      }
    } else {
      for (int r = 0; r < R; ++r) sums[r] = dot[r][j];
      for (int p = 0; p < 8; ++p) {
        const Line w = F::line(tile + p * 64, 0);
        for (int r = 0; r < R; ++r) keep(sums[r] = dot4<F::kOffset>(sums[r], w, quads[r][p]));
      }
      for (int r = 0; r < R; ++r) dot[r][j] = sums[r];
    }
  }
};

struct Avx2Table {
  using Bf16 = FloatChains<Bf16Lines>;
  using Fp8 = FloatChains<Fp8Lines>;
  using RawInt4 = FloatChains<RawInt4Lines>;
  using AmxInt4 = VectorChains<AmxInt4Lines, Avx2Products>;
  using AmxInt8 = VectorChains<AmxInt8Lines, Avx2Products>;
  static double multiply(bool int8, int64_t rounds) { return multiply_vectors(int8, rounds); }
};
