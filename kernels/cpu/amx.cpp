// AMX-BF16 tiles for five rows and more; below, and for everything else, AVX-512.
// Compiled a second time with KT_EMULATE_TILES: the same code on tiles in software, so that it can be tested on
// machines without AMX.

#include <immintrin.h>

#include "kernels/cpu/tables.h"

namespace kt {
namespace {
#include "kernels/cpu/vec_avx512.h"
// (the loops need the vector type first)
#include "kernels/cpu/loops.h"

#ifdef KT_EMULATE_TILES

thread_local float tile_c[4][16][16];
thread_local bf16 tile_ab[8][16][32];
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
void multiply_tiles(int c, int a, int b) {
  for (int r = 0; r < tile_rows[c]; ++r)
    for (int n = 0; n < 16; ++n) {
      float even = 0.0f, odd = 0.0f;
      for (int p = 0; p < 16; ++p) {
        even = __builtin_fmaf(to_float(tile_ab[a][r][2 * p]), to_float(tile_ab[b][p][2 * n]), even);
        odd = __builtin_fmaf(to_float(tile_ab[a][r][2 * p + 1]), to_float(tile_ab[b][p][2 * n + 1]), odd);
      }
      tile_c[c][r][n] += even + odd;
    }
}

#else

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t column_bytes[16] = {};
  uint8_t rows[16] = {};
};
// Tiles 0..3 accumulate (rows of A0 x two panels, rows of A1 x two panels), 4 and 5 are A, 6 and 7 are B.
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
#define multiply_tiles(c, a, b) _tile_dpbf16ps(c, a, b)

#endif

// Two blocks of sixteen rows times two panels. Tile loads want rows at one stride, so a block whose rows are scattered
// is gathered first, 32 columns at a time.
struct TileChains {
  static constexpr int kRows = 32;
  static int panels(int rows) { return rows < 5 ? VectorChains::panels(rows) : 2; }

  static void run(const bf16* const* x, int rows, const std::byte* const* p, int panels, int t0, int t1, float* acc) {
    if (rows < 5 || panels != 2) {
      for (int r = 0; r < rows; r += VectorChains::kRows)
        VectorChains::run(x + r, rows - r < VectorChains::kRows ? rows - r : VectorChains::kRows, p, panels, t0, t1,
                          acc + r * panels * 16);
      return;
    }
    const int rows0 = rows < 16 ? rows : 16, rows1 = rows - rows0;
    const int64_t stride = rows > 1 ? x[1] - x[0] : 0;
    bool even = true;
    for (int r = 2; r < rows; ++r) even = even && x[r] - x[r - 1] == stride;

    configure_tiles(rows0, rows1 ? rows1 : 1);
    zero_tile(0);
    zero_tile(1);
    zero_tile(2);
    zero_tile(3);
    alignas(64) bf16 gathered[kRows][kTileK];
    for (int t = t0; t < t1; ++t) {
      const bf16* a = x[0] + t * kTileK;
      int64_t bytes = stride * static_cast<int64_t>(sizeof(bf16));
      if (!even) {
        for (int r = 0; r < rows; ++r) _mm512_store_si512(gathered[r], _mm512_loadu_si512(x[r] + t * kTileK));
        a = gathered[0];
        bytes = kTileK * sizeof(bf16);
      }
      const int64_t tile = static_cast<int64_t>(t) * kPanel * kTileK * static_cast<int64_t>(sizeof(bf16));
      load_tile(6, p[0] + tile, 64);
      load_tile(7, p[1] + tile, 64);
      load_tile(4, a, bytes);
      multiply_tiles(0, 4, 6);
      multiply_tiles(1, 4, 7);
      if (rows1) {
        load_tile(5, reinterpret_cast<const std::byte*>(a) + 16 * bytes, bytes);
        multiply_tiles(2, 5, 6);
        multiply_tiles(3, 5, 7);
      }
    }
    constexpr int64_t kRowBytes = 2 * 16 * sizeof(float);
    store_tile(0, acc, kRowBytes);
    store_tile(1, acc + 16, kRowBytes);
    if (rows1) {
      store_tile(2, acc + 16 * 32, kRowBytes);
      store_tile(3, acc + 16 * 32 + 16, kRowBytes);
    }
    release_tiles();
  }
};
}  // namespace

#ifdef KT_EMULATE_TILES
extern const Ops kAmxEmulatedOps = make_table<TileChains>("amx-emulated");
#else
extern const Ops kAmxOps = make_table<TileChains>("amx");
#endif

}  // namespace kt
