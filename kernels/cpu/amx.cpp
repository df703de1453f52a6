// AMX tiles for five rows and more; below, and for everything else, AVX-512. Formats whose weights are not what a tile
// takes are turned into tiles once for a block of rows (kRowBlock).
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

// Memory that is fetched meanwhile, `bytes` of each of two panels a step: tile loads alone do not make enough misses.
struct Ahead {
  const std::byte* panel[2];
  int64_t bytes;
};

// Zeroes the accumulators and adds the products of `steps` pairs of A and B tiles, 64 bytes of k each. a: rows at
// a_stride; b: the two panels' tiles, 1024 bytes each. Leaves (rows, 2 panels, 16) in acc, four bytes an element.
#define KT_MULTIPLY_TILES(name, multiply)                                                                      \
  void name(const std::byte* a, int64_t a_stride, const std::byte* const* b, int steps, bool two, Ahead ahead, \
            void* acc) {                                                                                       \
    asm volatile("" ::: "memory"); /* g++ 12 is not told that tile loads read memory */                        \
    zero_tile(0);                                                                                              \
    zero_tile(1);                                                                                              \
    zero_tile(2);                                                                                              \
    zero_tile(3);                                                                                              \
    for (int s = 0; s < steps; ++s) {                                                                          \
      for (int64_t at = s * ahead.bytes; at < (s + 1) * ahead.bytes; at += 64) {                               \
        __builtin_prefetch(ahead.panel[0] + at);                                                               \
        __builtin_prefetch(ahead.panel[1] + at);                                                               \
      }                                                                                                        \
      load_tile(6, b[0] + s * 1024, 64);                                                                       \
      load_tile(7, b[1] + s * 1024, 64);                                                                       \
      load_tile(4, a + s * 64, a_stride);                                                                      \
      multiply(0, 4, 6);                                                                                       \
      multiply(1, 4, 7);                                                                                       \
      if (!two) continue;                                                                                      \
      load_tile(5, a + 16 * a_stride + s * 64, a_stride);                                                      \
      multiply(2, 5, 6);                                                                                       \
      multiply(3, 5, 7);                                                                                       \
    }                                                                                                          \
    std::byte* out = static_cast<std::byte*>(acc);                                                             \
    store_tile(0, out, 128);                                                                                   \
    store_tile(1, out + 64, 128);                                                                              \
    if (!two) return;                                                                                          \
    store_tile(2, out + 16 * 128, 128);                                                                        \
    store_tile(3, out + 16 * 128 + 64, 128);                                                                   \
  }
KT_MULTIPLY_TILES(bf16_products, multiply_bf16)
KT_MULTIPLY_TILES(int8_products, multiply_int8)

#include "kernels/cpu/scratch.h"
// (likewise)
#include "kernels/cpu/dots_avx512.h"
thread_local Scratch rows_scratch, tiles_scratch;

constexpr int kTileRows = 32;       // two blocks of sixteen
constexpr int kFewestTileRows = 5;  // fewer rows are faster as vectors

// Rows as tile loads want them: at one stride, and one at which sixteen rows do not share a set of the L1 cache.
template <class F>
Rows even_rows(const Rows& x, const PackedMatrix& w) {
  constexpr int64_t kTileBytes = F::kIntegers ? kTileK : kTileK * sizeof(bf16);
  const int64_t stride = F::kIntegers ? x.q_stride : x.stride * static_cast<int64_t>(sizeof(bf16));
  if (x.count < kFewestTileRows || (!x.index && stride % 4096)) return x;
  const int64_t bytes = w.k_tiles() * kTileBytes, to = bytes + 64, groups = F::kIntegers ? w.groups() : 0;
  std::byte* out =
      rows_scratch.at_least(static_cast<size_t>(x.count) * static_cast<size_t>(to + groups * sizeof(QuantGroup)));
  auto* group = reinterpret_cast<QuantGroup*>(out + x.count * to);
  const auto* from =
      F::kIntegers ? reinterpret_cast<const std::byte*>(x.q) : reinterpret_cast<const std::byte*>(x.data);
  for (int r = 0; r < x.count; ++r) {
    __builtin_memcpy(out + r * to, from + x.at(r) * stride, static_cast<size_t>(bytes));
    for (int64_t g = 0; g < groups; ++g) group[r * groups + g] = x.groups[x.at(r) * x.group_stride + g];
  }
  if (!F::kIntegers)
    return {.data = reinterpret_cast<const bf16*>(out),
            .stride = to / static_cast<int64_t>(sizeof(bf16)),
            .count = x.count};
  return {.count = x.count,
          .q = reinterpret_cast<const int8_t*>(out),
          .q_stride = to,
          .groups = group,
          .group_stride = groups};
}

// Formats whose tiles are not what a tile instruction takes: one tile as TDPBF16PS takes it (exact, because chains see
// bf16 values), or two consecutive ones as TDPBSUD does.
template <class F>
constexpr bool kStoredAsTiles = F::kTileBytes == (F::kIntegers ? 512 : 1024);
template <class F>
constexpr int kTilesInOne = F::kIntegers ? 2 : 1;
template <class F>
void make_tile(const std::byte* tile, std::byte* out) {
  if constexpr (F::kIntegers) {
#pragma GCC unroll 16
    for (int p = 0; p < 16; ++p) _mm512_store_si512(out + p * 64, F::line(tile + p / 8 * F::kTileBytes, p % 8).v);
  } else {
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
}
template <class F>
void make_tiles(const std::byte* from, int count, std::byte* out) {
  for (int i = 0; i < count; ++i, from += kTilesInOne<F> * F::kTileBytes, out += 1024) {
    for (int at = 0; at < kTilesInOne<F> * F::kTileBytes; at += 64) __builtin_prefetch(from + kPrefetchBytes + at);
    make_tile<F>(from, out);
  }
}

// Two panels as tiles, in memory that stays in the L2 cache, when more than one block of rows meets them. For one block
// they are made group by group, in the L1 cache.
template <class F>
const std::byte* make_panels(const PackedMatrix& w, const std::byte* const* panels, int count, int rows) {
  if (kStoredAsTiles<F> || count != 2 || rows <= kTileRows || w.k_tiles() % kTilesInOne<F>) return nullptr;
  const int tiles = w.k_tiles() / kTilesInOne<F>;
  std::byte* made = tiles_scratch.at_least(static_cast<size_t>(2) * tiles * 1024);
  for (int j = 0; j < 2; ++j) make_tiles<F>(panels[j], tiles, made + j * tiles * 1024);
  return made;
}

// The panels' tiles of one group, `steps` from tile t on, as the instruction takes them; and what to fetch meanwhile:
// what lies ahead of them or, from the second block of rows on, the next panels.
template <class F>
struct GroupTiles {
  const std::byte* b[2];
  Ahead ahead;
  GroupTiles(const ChainJob& job, int t, int steps) {
    ahead.bytes = job.block ? kTilesInOne<F> * job.next_bytes : kStoredAsTiles<F> ? 1024 : 0;
    for (int j = 0; j < 2; ++j) {
      b[j] = job.panels[j] + static_cast<int64_t>(t) * F::kTileBytes;
      ahead.panel[j] =
          job.block ? job.panels[j] + 2 * job.panel_bytes + job.next_from + t * job.next_bytes : b[j] + kPrefetchBytes;
      if (kStoredAsTiles<F>) continue;
      if (job.made) {
        b[j] = job.made + (static_cast<int64_t>(j) * job.w.k_tiles() + t) / kTilesInOne<F> * 1024;
      } else {
        std::byte* out = tiles_scratch.at_least(static_cast<size_t>(2) * steps * 1024) + j * steps * 1024;
        make_tiles<F>(b[j], steps, out);
        b[j] = out;
      }
    }
  }
};

// Few: chains of fewer rows.
template <class F, class Few = VectorChains<F>>
struct Bf16TileChains {
  static constexpr int kRows = kTileRows, kRowUnit = 16, kMaxPanels = F::kStreams;
  static int panels(int rows) { return rows < kFewestTileRows ? Few::panels(rows) : 2; }
  static Rows rows(const Rows& x, const PackedMatrix& w) { return even_rows<F>(x, w); }
  static const std::byte* make(const PackedMatrix& w, const std::byte* const* panels, int count, int rows) {
    return make_panels<F>(w, panels, count, rows);
  }

  static void run(const ChainJob& job, int panels, float* acc) {
    if (job.rows < kFewestTileRows || panels != 2) return few(job, panels, acc);
    const int tiles = job.t1 - job.t0, rows0 = job.rows < 16 ? job.rows : 16, rows1 = job.rows - rows0;
    const int64_t stride = job.x.stride * static_cast<int64_t>(sizeof(bf16));
    const auto* a = reinterpret_cast<const std::byte*>(job.x.row(job.first));
    configure_tiles(rows0, rows1 ? rows1 : 1);
    if constexpr (F::kScaleBytes == 0) {
      const GroupTiles<F> w(job, job.t0, tiles);
      bf16_products(a + job.t0 * 64, stride, w.b, tiles, rows1 > 0, w.ahead, acc);
    } else {
      const int group = job.w.group_tiles;
      alignas(64) float part[kTileRows * 2 * 16];
      __builtin_memset(acc, 0, static_cast<size_t>(job.rows) * 2 * 16 * sizeof(float));
      for (int t = job.t0; t < job.t1; t += group) {
        const int count = t + group < job.t1 ? group : job.t1 - t;
        const GroupTiles<F> w(job, t, count);
        bf16_products(a + t * 64, stride, w.b, count, rows1 > 0, w.ahead, part);
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

 private:
  static void few(ChainJob job, int panels, float* acc) {
    job.made = nullptr;  // as tiles, not as Few would have made them
    Few::run(job, panels, acc);
  }
};

template <class F>
struct Int8TileChains {
  static constexpr int kRows = kTileRows, kRowUnit = 16, kMaxPanels = F::kStreams;
  static int panels(int rows) { return rows < kFewestTileRows ? VectorChains<F>::panels(rows) : 2; }
  static Rows rows(const Rows& x, const PackedMatrix& w) { return even_rows<F>(x, w); }
  static const std::byte* make(const PackedMatrix& w, const std::byte* const* panels, int count, int rows) {
    return make_panels<F>(w, panels, count, rows);
  }

  static void run(const ChainJob& job, int panels, float* acc) {
    const int group = job.w.group_tiles, tiles = job.t1 - job.t0;
    if (job.rows < kFewestTileRows || panels != 2 || group % 2 || tiles % 2)
      return VectorChains<F>::run(job, panels, acc);
    const int rows0 = job.rows < 16 ? job.rows : 16, rows1 = job.rows - rows0;
    const auto* a = reinterpret_cast<const std::byte*>(job.x.q + job.first * job.x.q_stride);
    configure_tiles(rows0, rows1 ? rows1 : 1);
    alignas(64) int32_t part[kTileRows * 2 * 16];
    __builtin_memset(acc, 0, static_cast<size_t>(job.rows) * 2 * 16 * sizeof(float));
    for (int t = job.t0; t < job.t1; t += group) {
      const int steps = (t + group < job.t1 ? group : job.t1 - t) / 2;
      const GroupTiles<F> w(job, t, steps);
      int8_products(a + static_cast<int64_t>(t) * kTileK, job.x.q_stride, w.b, steps, rows1 > 0, w.ahead, part);
      const int g = t / group;
      for (int j = 0; j < 2; ++j) {
        const V scale =
            load_bf16(reinterpret_cast<const bf16*>(job.panels[j] + job.w.scales_at() + g * F::kScaleBytes));
        for (int r = 0; r < job.rows; ++r) {
          const QuantGroup& q = job.x.groups[(job.first + r) * job.x.group_stride + g];
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
  using RawInt4 = Bf16TileChains<RawInt4Lines, DotChains<RawInt4Pairs>>;  // a pair takes half the instructions
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
