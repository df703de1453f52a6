#pragma once

// Products as chains (kernels/weight.h), by blocks of 256 threads out of shared memory, a tile of 32 inputs at a time.
// Thread t has row group t / kGroups and column group t % kGroups: R rows one after the other, and C columns that its
// kind of weights places.

#include "kernels/simt/simt.h"
#include "kernels/weight.h"

namespace kt::SIMT_TABLE {

inline constexpr int kChainThreads = 256;

// std::min and std::max take references, which a kernel has none of to the host's constants.
__device__ constexpr int smaller_of(int a, int b) { return a < b ? a : b; }
__device__ constexpr int larger_of(int a, int b) { return a > b ? a : b; }

// Of a word, the two neighbouring bf16.
__device__ inline float first_of(uint32_t word) { return __uint_as_float(word << 16); }
__device__ inline float second_of(uint32_t word) { return __uint_as_float(word & 0xffff0000u); }
__device__ inline uint32_t word_of(const uint4& v, int i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }
__device__ inline const uint4& four_words(const void* p) { return *static_cast<const uint4*>(p); }
__device__ inline uint32_t two_bf16(float first, float second) {
  return to_bf16(first) | static_cast<uint32_t>(to_bf16(second)) << 16;
}

// Where chunk q, eight inputs, of a row of a tile lies: eight neighbouring rows are read without bank conflicts.
__device__ inline int swizzled(int row, int q) { return row * kTileK + (q ^ (row / 2 % 4)) * 8; }

// Rows of weights, swizzled: columns g + j kGroups.
template <int C, int kGroups>
struct RowWeights {
  const bf16* tile;
  int g;
  uint4 chunk[C];

  static constexpr int kColumns = C * kGroups;
  static __device__ int column(int g, int j) { return g + j * kGroups; }
  __device__ void read(int q) {
#pragma unroll
    for (int j = 0; j < C; ++j) chunk[j] = four_words(tile + swizzled(column(g, j), q));
  }
  __device__ void pair(int, int p, float (&even)[C], float (&odd)[C]) const {
#pragma unroll
    for (int j = 0; j < C; ++j) even[j] = first_of(word_of(chunk[j], p)), odd[j] = second_of(word_of(chunk[j], p));
  }
};

// One input after the other, each with all columns: columns g C + j.
template <int C, int kGroups>
struct ColumnWeights {
  const bf16* tile;
  int g;

  static constexpr int kColumns = C * kGroups;
  static __device__ int column(int g, int j) { return g * C + j; }
  __device__ void read(int) {}
  __device__ void pair(int q, int p, float (&even)[C], float (&odd)[C]) const {
    static_assert(C == 2 || C == 8);
    const bf16* at = tile + (8 * q + 2 * p) * kColumns + g * C;
    if constexpr (C == 8) {
      const uint4 a = four_words(at), b = four_words(at + kColumns);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        even[2 * j] = first_of(word_of(a, j)), even[2 * j + 1] = second_of(word_of(a, j));
        odd[2 * j] = first_of(word_of(b, j)), odd[2 * j + 1] = second_of(word_of(b, j));
      }
    } else {
      const uint32_t a = *reinterpret_cast<const uint32_t*>(at), b = *reinterpret_cast<const uint32_t*>(at + kColumns);
      even[0] = first_of(a), even[1] = second_of(a), odd[0] = first_of(b), odd[1] = second_of(b);
    }
  }
};

// Panels side by side, line by line: pair p of all columns, then the next. Columns 4g + j, then 4 (kGroups + g) + j.
template <int kGroups>
struct PanelWeights {
  const bf16* tile;
  int g;

  static constexpr int kColumns = 8 * kGroups;
  static __device__ int column(int g, int j) { return j / 4 * 4 * kGroups + 4 * g + j % 4; }
  __device__ void read(int) {}
  __device__ void pair(int q, int p, float (&even)[8], float (&odd)[8]) const {
    const bf16* at = tile + (4 * q + p) * 2 * kColumns + 8 * g;
    const uint4 a = four_words(at), b = four_words(at + 8 * kGroups);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      even[j] = first_of(word_of(a, j)), odd[j] = second_of(word_of(a, j));
      even[4 + j] = first_of(word_of(b, j)), odd[4 + j] = second_of(word_of(b, j));
    }
  }
};

// What a thread has of the sums.
template <int R, int C>
struct ChainSums {
  float sum[R][C];

  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < R; ++i)
#pragma unroll
      for (int j = 0; j < C; ++j) sum[i][j] = 0.0f;
  }
  // One tile; row i's inputs at x + i * stride.
  template <class Weights>
  __device__ void add(const bf16* x, int stride, Weights w) {
    float even[R][C] = {}, odd[R][C] = {};
#pragma unroll 1
    for (int q = 0; q < 4; ++q) {
      uint4 rows[R];
#pragma unroll
      for (int i = 0; i < R; ++i) rows[i] = four_words(x + i * stride + 8 * q);
      w.read(q);
#pragma unroll
      for (int p = 0; p < 4; ++p) {
        float w_even[C], w_odd[C];
        w.pair(q, p, w_even, w_odd);
#pragma unroll
        for (int i = 0; i < R; ++i) {
          const float x_even = first_of(word_of(rows[i], p)), x_odd = second_of(word_of(rows[i], p));
#pragma unroll
          for (int j = 0; j < C; ++j) {
            even[i][j] = fmaf(x_even, w_even[j], even[i][j]);
            odd[i][j] = fmaf(x_odd, w_odd[j], odd[i][j]);
          }
        }
      }
    }
#pragma unroll
    for (int i = 0; i < R; ++i)
#pragma unroll
      for (int j = 0; j < C; ++j) sum[i][j] = sum[i][j] + (even[i][j] + odd[i][j]);
  }
};

// load(tile, stage) starts copies of a tile, kStages - 1 tiles ahead of use(tile, stage). Begins with a barrier, for
// whoever used the stages before.
template <int kStages, class Load, class Use>
__device__ void in_stages(int tiles, const Load& load, const Use& use) {
  __syncthreads();
  for (int t = 0; t < kStages - 1; ++t) {
    if (t < tiles) load(t, t);
    simt::commit();
  }
  for (int t = 0; t < tiles; ++t) {
    simt::wait<kStages - 2>();
    __syncthreads();
    const int next = t + kStages - 1;
    if (next < tiles) load(next, next % kStages);
    simt::commit();
    use(t, t % kStages);
  }
}

// kRows rows of a tile, the first `count` from row(i), the others zeros.
template <int kRows, bool kSwizzled, class Row>
__device__ void copy_tile(bf16* tile, int count, const Row& row) {
#pragma unroll 4
  for (int first = 0; first < kRows * 4; first += kChainThreads) {
    const int id = first + static_cast<int>(threadIdx.x), r = id / 4, q = id % 4;
    if (kRows * 4 % kChainThreads && id >= kRows * 4) break;
    const bool use = r < count;
    simt::copy16(tile + (kSwizzled ? swizzled(r, q) : r * kTileK + 8 * q), row(use ? r : 0) + 8 * q, use);
  }
}
// A tile of kPanels neighbouring panels, of which `count` are there, for PanelWeights; panel(i) is where its tile lies.
template <int kPanels, class Panel>
__device__ void copy_panels(bf16* tile, int count, const Panel& panel) {
  static_assert(kPanels * 64 % kChainThreads == 0);
#pragma unroll 4
  for (int first = 0; first < kPanels * 64; first += kChainThreads) {
    const int id = first + static_cast<int>(threadIdx.x), i = id / 64, line = id / 4 % 16, q = id % 4;
    const bool use = i < count;
    simt::copy16(tile + (line * kPanels + i) * 2 * kPanel + 8 * q, panel(use ? i : 0) + line * kTileK + 8 * q, use);
  }
}

}  // namespace kt::SIMT_TABLE
