// AMX tiles for five rows and more; below, and for everything else, AVX-512. Formats whose weights are not what a tile
// takes are turned into tiles once per block of rows, in memory that stays in the L2 cache.
// Compiled a second time with KT_EMULATE_TILES: the same code on tiles in software, so that it can be tested on
// machines without AMX.

#include <immintrin.h>

#include <cstdlib>

#include "kernels/cpu/tables.h"

namespace kt {
namespace {
#include "kernels/cpu/vec_avx512.h"
// (the loops need the vector type first)
#include "kernels/cpu/loops.h"

// Tiles 0..3 accumulate (rows of A0 x two panels, rows of A1 x two panels), 4 and 5 are A, 6 and 7 are B.
// K is 64 bytes of a row in all of them.

#ifdef KT_EMULATE_TILES

thread_local int32_t tile_c[4][16][16];
thread_local std::byte tile_ab[8][16][64];
thread_local int tile_rows[8];

void configure_tiles(int a0_rows, int a1_rows) {
  for (int t : {0, 1, 4}) tile_rows[t] = a0_rows;
  for (int t : {2, 3, 5}) tile_rows[t] = a1_rows;
  for (int t : {6, 7}) tile_rows[t] = 16;
}
void release_tiles() {}
void zero_tile(int t) { __builtin_memset(tile_c[t], 0, sizeof tile_c[t]); }
void load_tile(int t, const void* p, int64_t stride) {
  for (int r = 0; r < tile_rows[t]; ++r)
    __builtin_memcpy(tile_ab[t][r], static_cast<const std::byte*>(p) + r * stride, 64);
}
void store_tile(int t, void* p, int64_t stride) {
  for (int r = 0; r < tile_rows[t]; ++r) __builtin_memcpy(static_cast<std::byte*>(p) + r * stride, tile_c[t][r], 64);
}
float half_of(const std::byte* p) {
  bf16 v;
  __builtin_memcpy(&v, p, sizeof v);
  return kt::to_float(v);
}
void multiply_bf16(int c, int a, int b) {
  for (int r = 0; r < tile_rows[c]; ++r)
    for (int n = 0; n < 16; ++n) {
      float even = 0.0f, odd = 0.0f, sum;
      for (int p = 0; p < 16; ++p) {
        even = __builtin_fmaf(half_of(&tile_ab[a][r][4 * p]), half_of(&tile_ab[b][p][4 * n]), even);
        odd = __builtin_fmaf(half_of(&tile_ab[a][r][4 * p + 2]), half_of(&tile_ab[b][p][4 * n + 2]), odd);
      }
      __builtin_memcpy(&sum, &tile_c[c][r][n], sizeof sum);
      sum += even + odd;
      __builtin_memcpy(&tile_c[c][r][n], &sum, sizeof sum);
    }
}
void multiply_int8(int c, int a, int b) {
  for (int r = 0; r < tile_rows[c]; ++r)
    for (int n = 0; n < 16; ++n)
      for (int k = 0; k < 64; ++k)
        tile_c[c][r][n] +=
            static_cast<int8_t>(tile_ab[a][r][k]) * static_cast<uint8_t>(tile_ab[b][k / 4][4 * n + k % 4]);
}

#else

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t column_bytes[16] = {};
  uint8_t rows[16] = {};
};
void configure_tiles(int a0_rows, int a1_rows) {
  TileConfig c;
  for (int t = 0; t < 8; ++t) c.column_bytes[t] = 64;
  for (int t : {0, 1, 4}) c.rows[t] = static_cast<uint8_t>(a0_rows);
  for (int t : {2, 3, 5}) c.rows[t] = static_cast<uint8_t>(a1_rows);
  for (int t : {6, 7}) c.rows[t] = 16;
  asm volatile("" ::"r"(&c) : "memory");  // g++ 12 believes that ldtilecfg reads eight bytes and drops the other stores
  _tile_loadconfig(&c);
}
// Macros, because the compiler's own are: a tile's number is part of the instruction.
#define release_tiles() _tile_release()
#define zero_tile(t) _tile_zero(t)
#define load_tile(t, p, stride) _tile_loadd(t, p, static_cast<size_t>(stride))
#define store_tile(t, p, stride) _tile_stored(t, p, static_cast<size_t>(stride))
#define multiply_bf16(c, a, b) _tile_dpbf16ps(c, a, b)
#define multiply_int8(c, a, b) _tile_dpbsud(c, a, b)

#endif

// Zeroes the accumulators and adds the products of `steps` pairs of A and B tiles, 64 bytes of k each. a: rows at
// a_stride; b0, b1: the panels' tiles, 1024 bytes each. Leaves (rows, 2 panels, 16) in acc, four bytes an element.
#define KT_MULTIPLY_TILES(name, multiply)                                                                        \
  void name(const std::byte* a, int64_t a_stride, const std::byte* b0, const std::byte* b1, int steps, bool two, \
            void* acc) {                                                                                         \
    asm volatile("" ::: "memory"); /* g++ 12 is not told that tile loads read memory */                          \
    zero_tile(0);                                                                                                \
    zero_tile(1);                                                                                                \
    zero_tile(2);                                                                                                \
    zero_tile(3);                                                                                                \
    for (int s = 0; s < steps; ++s) {                                                                            \
      load_tile(6, b0 + s * 1024, 64);                                                                           \
      load_tile(7, b1 + s * 1024, 64);                                                                           \
      load_tile(4, a + s * 64, a_stride);                                                                        \
      multiply(0, 4, 6);                                                                                         \
      multiply(1, 4, 7);                                                                                         \
      if (!two) continue;                                                                                        \
      load_tile(5, a + 16 * a_stride + s * 64, a_stride);                                                        \
      multiply(2, 5, 6);                                                                                         \
      multiply(3, 5, 7);                                                                                         \
    }                                                                                                            \
    std::byte* out = static_cast<std::byte*>(acc);                                                               \
    store_tile(0, out, 128);                                                                                     \
    store_tile(1, out + 64, 128);                                                                                \
    if (!two) return;                                                                                            \
    store_tile(2, out + 16 * 128, 128);                                                                          \
    store_tile(3, out + 16 * 128 + 64, 128);                                                                     \
  }
KT_MULTIPLY_TILES(bf16_products, multiply_bf16)
KT_MULTIPLY_TILES(int8_products, multiply_int8)

#include "kernels/cpu/scratch.h"
thread_local Scratch rows_scratch, tiles_scratch;

constexpr int kTileRows = 32;       // two blocks of sixteen
constexpr int kFewestTileRows = 5;  // fewer rows are faster as vectors

// Rows of a block at one stride, as tile loads want them: where they are, or gathered.
struct EvenRows {
  const std::byte* data;
  int64_t stride;
};
EvenRows even_rows(const std::byte* base, int64_t stride, const ChainJob& job, size_t from, size_t bytes) {
  const Rows& x = job.x;
  if (!x.index) return {base + job.first * stride + from, stride};
  std::byte* out = rows_scratch.at_least(kTileRows * bytes);
  for (int r = 0; r < job.rows; ++r)
    __builtin_memcpy(out + r * bytes, base + x.at(job.first + r) * stride + from, bytes);
  return {out, static_cast<int64_t>(bytes)};
}

// One tile of a format as the bf16 tile that TDPBF16PS takes; exact, because chains see bf16 values.
template <class F>
void make_bf16_tile(const std::byte* tile, std::byte* out) {
  const __m512i high = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
#pragma GCC unroll 16
  for (int p = 0; p < 16; ++p) {
    V even, odd;
    F::line(tile, p, even, odd);
    const __m512i e = _mm512_srli_epi32(_mm512_castps_si512(even.v), 16);
    _mm512_store_si512(out + p * 64,
                       _mm512_ternarylogic_epi32(e, _mm512_castps_si512(odd.v), high, 0xf8 /* e | (o & high) */));
  }
}

template <class F>
struct Bf16TileChains {
  static constexpr int kRows = kTileRows, kRowUnit = 16, kMaxPanels = F::kStreams;
  static int panels(int rows) { return rows < kFewestTileRows ? VectorChains<F>::panels(rows) : 2; }

  static void run(const ChainJob& job, int panels, float* acc) {
    if (job.rows < kFewestTileRows || panels != 2) return VectorChains<F>::run(job, panels, acc);
    const int tiles = job.t1 - job.t0, rows0 = job.rows < 16 ? job.rows : 16, rows1 = job.rows - rows0;
    const EvenRows a =
        even_rows(reinterpret_cast<const std::byte*>(job.x.data), job.x.stride * static_cast<int64_t>(sizeof(bf16)),
                  job, static_cast<size_t>(job.t0) * 64, static_cast<size_t>(tiles) * 64);
    configure_tiles(rows0, rows1 ? rows1 : 1);
    if constexpr (F::kScaleBytes == 0) {
      bf16_products(a.data, a.stride, job.panels[0] + static_cast<int64_t>(job.t0) * 1024,
                    job.panels[1] + static_cast<int64_t>(job.t0) * 1024, tiles, rows1 > 0, acc);
    } else {
      const int group = job.w.group_tiles;
      std::byte* made = tiles_scratch.at_least(static_cast<size_t>(2) * group * 1024);
      alignas(64) float part[kTileRows * 2 * 16];
      __builtin_memset(acc, 0, static_cast<size_t>(job.rows) * 2 * 16 * sizeof(float));
      for (int t = job.t0; t < job.t1; t += group) {
        const int count = t + group < job.t1 ? group : job.t1 - t;
        for (int j = 0; j < 2; ++j)
          for (int i = 0; i < count; ++i)
            make_bf16_tile<F>(job.panels[j] + static_cast<int64_t>(t + i) * F::kTileBytes,
                              made + (j * group + i) * 1024);
        bf16_products(a.data + static_cast<int64_t>(t - job.t0) * 64, a.stride, made, made + group * 1024, count,
                      rows1 > 0, part);
        for (int j = 0; j < 2; ++j) {
          const V scale = F::scale(job.panels[j] + job.w.scales_at() + t / group * F::kScaleBytes);
          for (int r = 0; r < job.rows; ++r) {
            float* sum = acc + (r * 2 + j) * 16;
            store(sum, fma(scale, load(part + (r * 2 + j) * 16), load(sum)));
          }
        }
      }
    }
    release_tiles();
  }
};

// One or two consecutive tiles of 32 inputs as the tile of 64 that TDPBSUD takes.
template <class F>
void make_int8_tile(const std::byte* tile, std::byte* out) {
#pragma GCC unroll 16
  for (int p = 0; p < 16; ++p) _mm512_store_si512(out + p * 64, F::line(tile + p / 8 * F::kTileBytes, p % 8).v);
}

template <class F>
struct Int8TileChains {
  static constexpr int kRows = kTileRows, kRowUnit = 16, kMaxPanels = F::kStreams;
  static int panels(int rows) { return rows < kFewestTileRows ? VectorChains<F>::panels(rows) : 2; }

  static void run(const ChainJob& job, int panels, float* acc) {
    const int group = job.w.group_tiles, tiles = job.t1 - job.t0;
    if (job.rows < kFewestTileRows || panels != 2 || group % 2 || tiles % 2)
      return VectorChains<F>::run(job, panels, acc);
    const int rows0 = job.rows < 16 ? job.rows : 16, rows1 = job.rows - rows0;
    const EvenRows a = even_rows(reinterpret_cast<const std::byte*>(job.x.q), job.x.q_stride, job,
                                 static_cast<size_t>(job.t0) * kTileK, static_cast<size_t>(tiles) * kTileK);
    configure_tiles(rows0, rows1 ? rows1 : 1);
    std::byte* made = tiles_scratch.at_least(static_cast<size_t>(group) * 1024);
    alignas(64) int32_t part[kTileRows * 2 * 16];
    __builtin_memset(acc, 0, static_cast<size_t>(job.rows) * 2 * 16 * sizeof(float));
    for (int t = job.t0; t < job.t1; t += group) {
      const int steps = (t + group < job.t1 ? group : job.t1 - t) / 2;
      const std::byte* b[2];
      for (int j = 0; j < 2; ++j) {
        b[j] = job.panels[j] + static_cast<int64_t>(t) * F::kTileBytes;
        if (F::kTileBytes == 512) continue;  // stored as tiles
        std::byte* to = made + j * group / 2 * 1024;
        for (int i = 0; i < steps; ++i)
          make_int8_tile<F>(b[j] + static_cast<int64_t>(2 * i) * F::kTileBytes, to + i * 1024);
        b[j] = to;
      }
      int8_products(a.data + static_cast<int64_t>(t - job.t0) * kTileK, a.stride, b[0], b[1], steps, rows1 > 0, part);
      const int g = t / group;
      for (int j = 0; j < 2; ++j) {
        const V scale =
            load_bf16(reinterpret_cast<const bf16*>(job.panels[j] + job.w.scales_at() + g * F::kScaleBytes));
        for (int r = 0; r < job.rows; ++r) {
          const QuantGroup& q = job.x.groups[job.x.at(job.first + r) * job.x.group_stride + g];
          const I exact = sub_i({_mm512_load_si512(part + (r * 2 + j) * 16)}, F::kOffset * q.sum);
          float* sum = acc + (r * 2 + j) * 16;
          store(sum, fma(to_float(exact), mul(splat(q.scale), scale), load(sum)));
        }
      }
    }
    release_tiles();
  }
};

struct TileTable {
  using Bf16 = Bf16TileChains<Bf16Lines>;
  using Fp8 = Bf16TileChains<Fp8Lines>;
  using RawInt4 = Bf16TileChains<RawInt4Lines>;
  using AmxInt4 = Int8TileChains<AmxInt4Lines>;
  using AmxInt8 = Int8TileChains<AmxInt8Lines>;
  static double multiply(bool int8, int64_t rounds) {
    configure_tiles(16, 16);
    alignas(64) static const std::byte zeros[16 * 64] = {};
    for (int64_t i = 0; i < rounds; ++i) {
      if (i % 4096 == 0) {
        load_tile(4, zeros, 64);
        load_tile(5, zeros, 64);
        load_tile(6, zeros, 64);
        load_tile(7, zeros, 64);
      }
      if (int8) {
        multiply_int8(0, 4, 6);
        multiply_int8(1, 4, 7);
        multiply_int8(2, 5, 6);
        multiply_int8(3, 5, 7);
      } else {
        multiply_bf16(0, 4, 6);
        multiply_bf16(1, 4, 7);
        multiply_bf16(2, 5, 6);
        multiply_bf16(3, 5, 7);
      }
    }
    release_tiles();
    return static_cast<double>(rounds) * 4 * 16 * 16 * 2 * (int8 ? 64 : 32);
  }
};

}  // namespace

#ifdef KT_EMULATE_TILES
extern const Ops kAmxEmulatedOps = make_table<TileTable>("amx-emulated");
#else
extern const Ops kAmxOps = make_table<TileTable>("amx");
#endif

}  // namespace kt
