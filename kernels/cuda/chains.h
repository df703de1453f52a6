#pragma once

#include "kernels/cuda/arithmetic.h"
#include "kernels/cuda/scratch.h"

#include <type_traits>

// Products with packed matrices of every format, with the bits of kernels/cpu/ref.cpp.
//
// The sums of a tile depend on no other tile: a warp takes eight tiles at once, four lanes to a tile, each lane four of
// the sixteen outputs. What is sequential, adding up tiles and groups, follows in ascending order: sums of tiles go
// through shared memory, and each output of each row has a thread that adds them.

namespace kt::SIMT_TABLE {

// A PackedMatrix as kernels take it.
struct Weights {
  const std::byte* data = nullptr;
  int64_t panel_bytes = 0, scales_at = 0;
  int panels = 0, tiles = 0, group = 1;  // tiles that share scales

  __device__ const std::byte* panel(int i) const { return data + i * panel_bytes; }
  __device__ Weights at(const std::byte* other) const { return {other, panel_bytes, scales_at, panels, tiles, group}; }
};
inline Weights weights_of(const PackedMatrix& w) {
  return {w.data,      static_cast<int64_t>(w.panel_bytes()), static_cast<int64_t>(w.scales_at()), w.panels(),
          w.k_tiles(), w.group_tiles ? w.group_tiles : 1};
}

// Rows of bf16, or quantised ones with the scales of their groups. Strides in units of 16 bytes and in groups; together
// units and groups of all rows count less than 2^32.
struct Inputs {
  const uint4* at = nullptr;
  uint32_t stride = 0;
  const QuantGroup* groups = nullptr;
  uint32_t group_stride = 0;
};

// ---- formats; kernels/format/ says how they are stored. Raw is what a lane loads of a tile at a time: two lines of
// four outputs.

__device__ inline uint32_t part(const uint2& v, int i) { return i ? v.y : v.x; }
__device__ inline uint32_t part(const uint4& v, int i) { return i < 2 ? (i ? v.y : v.x) : i == 2 ? v.z : v.w; }
template <class T>
__device__ inline T load(const void* p) {
  return *static_cast<const T*>(p);
}
__device__ inline float low_bf16(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ inline float high_bf16(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }
// Of four outputs.
__device__ inline float4 bf16_scales(const std::byte* scales, int quad) {
  const auto v = load<uint2>(scales + quad * 8);
  return {low_bf16(v.x), high_bf16(v.x), low_bf16(v.y), high_bf16(v.y)};
}

struct Bf16Chains {
  static constexpr Format kFormat = Format::BF16;
  static constexpr bool kInt8 = false, kScaled = false, kTensor = false;

  struct Raw {
    uint4 line[2];
  };
  static __device__ Raw load_lines(const std::byte* tile, int two, int quad) {
    const std::byte* at = tile + two * 128 + quad * 16;
    return {{load<uint4>(at), load<uint4>(at + 64)}};
  }
  static __device__ void line(const Raw& raw, int l, float (&even)[4], float (&odd)[4]) {
    for (int i = 0; i < 4; ++i) even[i] = low_bf16(part(raw.line[l], i)), odd[i] = high_bf16(part(raw.line[l], i));
  }
};

struct Fp8Chains {
  static constexpr Format kFormat = Format::FP8;
  static constexpr bool kInt8 = false, kScaled = true, kTensor = false;

  struct Raw {
    uint2 even, odd;  // 16 bits an output, a byte of each line
  };
  static __device__ Raw load_lines(const std::byte* tile, int two, int quad) {
    const std::byte* at = tile + two * 64 + quad * 8;
    return {load<uint2>(at), load<uint2>(at + 32)};
  }
  // Bits moved into float16: weights / 256.
  static __device__ uint32_t halves(uint32_t pairs, int high) {
    return high ? (pairs & 0x80008000u) | (pairs & 0x7f007f00u) >> 1
                : (pairs & 0x00800080u) << 8 | (pairs & 0x007f007fu) << 7;
  }
  static __device__ void line(const Raw& raw, int l, float (&even)[4], float (&odd)[4]) {
    for (int i = 0; i < 4; i += 2) {
      const uint32_t e = halves(part(raw.even, i / 2), l), o = halves(part(raw.odd, i / 2), l);
      even[i] = simt::float_from_half(static_cast<uint16_t>(e));
      even[i + 1] = simt::float_from_half(static_cast<uint16_t>(e >> 16));
      odd[i] = simt::float_from_half(static_cast<uint16_t>(o));
      odd[i + 1] = simt::float_from_half(static_cast<uint16_t>(o >> 16));
    }
  }
  static constexpr int kScaleBytes = 4;
  static __device__ float4 scales(const std::byte* scales, int) {
    const auto s = load<float>(scales);
    return {s, s, s, s};
  }
};

struct RawInt4Chains {
  static constexpr Format kFormat = Format::RAWINT4;
  static constexpr bool kInt8 = false, kScaled = true, kTensor = false;

  struct Raw {
    uint4 words;  // an output's nibbles: of even inputs in the low 16 bits, of odd ones in the high
    int first;    // nibble
  };
  static __device__ Raw load_lines(const std::byte* tile, int two, int quad) {
    return {load<uint4>(tile + two / 2 * 64 + quad * 16), two % 2 * 2};
  }
  // Nibble l of the low 16 bits, less 8: put into the mantissa of 2^23, exact from there on.
  static __device__ float weight(uint32_t nibbles, int l) {
    const float step = 1.0f / static_cast<float>(1 << 4 * l);
    return fmaf(__uint_as_float((nibbles & 15u << 4 * l) | 0x4b000000u), step, -(8388608.0f * step + 8.0f));
  }
  static __device__ void line(const Raw& raw, int l, float (&even)[4], float (&odd)[4]) {
    for (int i = 0; i < 4; ++i) {
      even[i] = weight(part(raw.words, i), raw.first + l);
      odd[i] = weight(part(raw.words, i) >> 16, raw.first + l);
    }
  }
  static constexpr int kScaleBytes = 32;
  static __device__ float4 scales(const std::byte* scales, int quad) { return bf16_scales(scales, quad); }
};

// ---- one tile: sums of kRows rows and the lane's four outputs, as bits. The rows' 32 inputs lie at x + row[r].

template <class F, int kRows>
__device__ void chains_of_tile(const std::byte* tile, int quad, const uint4* x, const uint32_t (&row)[kRows],
                               uint32_t (&sums)[kRows][4]) {
  float even[kRows][4] = {}, odd[kRows][4] = {};
#pragma unroll(kRows < 4 ? 8 : kRows < 8 ? 4 : 2)
  for (int two = 0; two < 8; ++two) {
    const typename F::Raw raw = F::load_lines(tile, two, quad);
    float even_weight[2][4], odd_weight[2][4];
#pragma unroll
    for (int l = 0; l < 2; ++l) F::line(raw, l, even_weight[l], odd_weight[l]);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const uint2 in = reinterpret_cast<const uint2*>(x + row[r])[two];
#pragma unroll
      for (int l = 0; l < 2; ++l) {
        const float a = low_bf16(part(in, l)), b = high_bf16(part(in, l));
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          even[r][i] = fmaf(a, even_weight[l][i], even[r][i]);
          odd[r][i] = fmaf(b, odd_weight[l][i], odd[r][i]);
        }
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r)
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[r][i] = __float_as_uint(even[r][i] + odd[r][i]);
}

// ---- a panel

// Where a tile's sum of an output of PanelSums lies in shared memory if tensor cores make it, such that a warp's stores
// go to different banks.
__device__ constexpr int tensor_place(int output) { return output ^ (output & 32) >> 2; }

// Sum of numbers s y on the grid of sums, with the bits of to_grid and float64's additions but in float32 and integers:
// many GPUs have few units for float64.
struct GridSum {
  int64_t units = 0;  // of 2^-32
  double far = 0.0;

  __device__ void add(float s, float y) {
    int near, rest;
    if (split(s, y, near, rest))
      units += static_cast<int64_t>(near) * (1 << 22) + rest;
    else
      far = far + to_grid(static_cast<double>(s) * static_cast<double>(y));
  }
  __device__ double value() const { return static_cast<double>(units) * (1.0 / (1ll << 32)) + far; }

  // to_grid(s y) = near 2^-10 + rest 2^-32, |near| <= 2^22 and |rest| <= 2^21, unless s y is too large.
  static __device__ bool split(float s, float y, int& near, int& rest) {
    constexpr float kNear = 1.5f * (1 << 13), kRest = 1.5f / (1 << 9);  // ulps of values around them: 2^-10, 2^-32
    // The product to multiples of 2^-10, and what this leaves to 2^-32; each rounded once, everything else is exact.
    const float a = fmaf(s, y, kNear), b = fmaf(s, y, kRest - (a - kNear));
    near = steps(a, kNear);
    rest = steps(b, kRest);
    return fabsf(s * y) < 4096.0f;
  }

 private:
  static __device__ int steps(float x, float from) {
    return static_cast<int>(__float_as_uint(x) - __float_as_uint(from));
  }
};

// Threads that work on one panel and some rows: whole warps.
struct Team {
  int thread = 0, threads = 0;
};

// Products of kRows rows with one panel, by a team. kTiles: that are added up at a time. kAlone: the team is a warp;
// else all threads of the block must come here. Each thread gets kOwn sums, or of slices, on the grid: of output o % 16
// and row o / 16 for each o = owned(i) < kOutputs.
template <class F, int kRows, int kTiles, int kOwn, bool kAlone>
struct PanelSums {
  static constexpr int kOutputs = kRows * kPanel, kWords = kTiles * (kOutputs + kPanel + kRows);
  static constexpr int kTileBytes = info(F::kFormat).tile_bytes, kOwned = kOwn;

  Team team;
  float sum[kOwn] = {};
  float factor[kOwn] = {};  // of slices
  GridSum grid[kOwn] = {};
  int left = 0;  // tiles of the slice

  __device__ int owned(int i) const { return team.thread + i * team.threads; }

  // slice: tiles of one; 0: all tiles are summed up.
  __device__ void run(const Weights& w, const std::byte* panel, const Inputs& x, uint32_t (&row)[kRows], uint32_t* room,
                      int slice) {
    left = slice;
#pragma unroll
    for (int r = 0; r < kRows; ++r) row[r] *= x.stride;  // once: registers are few
    const int step = kTiles / w.group * w.group;
    for (int first = 0; first < w.tiles; first += step) {
      const int end = first + step < w.tiles ? first + step : w.tiles;
      for (int t = first + team.thread / 4; t < end; t += team.threads / 4) tile(w, panel, x, row, room, t, t - first);
      sync();
      add(w, room, first, end, slice);
      sync();
    }
  }

 protected:
  static __device__ void sync() {
    if constexpr (kAlone)
      __syncwarp();
    else
      __syncthreads();
  }
  static __device__ uint32_t* scales(uint32_t* room) { return room + kTiles * kOutputs; }
  static __device__ uint32_t* row_scales(uint32_t* room) { return scales(room) + kTiles * kPanel; }

  // Tile t, the slot-th of those that are added up together.
  __device__ void tile(const Weights& w, const std::byte* panel, const Inputs& x, const uint32_t (&row)[kRows],
                       uint32_t* room, int t, int slot) {
    const int quad = team.thread % 4;
    const std::byte* at = panel + static_cast<int64_t>(t) * kTileBytes;
    uint32_t sums[kRows][4];
    chains_of_tile<F>(at, quad, x.at + t * 4, row, sums);
#pragma unroll
    for (int r = 0; r < kRows; ++r)
      *reinterpret_cast<uint4*>(room + slot * kOutputs + r * kPanel + quad * 4) = {sums[r][0], sums[r][1], sums[r][2],
                                                                                   sums[r][3]};
    if constexpr (F::kScaled) {
      if (t % w.group) return;
      const int g = t / w.group;
      *reinterpret_cast<float4*>(scales(room) + slot * kPanel + quad * 4) =
          F::scales(panel + w.scales_at + g * F::kScaleBytes, quad);
    }
  }

  // Tiles from `slot` on that share scales, the group-th ones there.
  __device__ float add_group(uint32_t* room, int slot, int group, int count, int output, float sum) const {
    const uint32_t* at = room + slot * kOutputs + (F::kTensor ? tensor_place(output) : output);
    if constexpr (!F::kScaled) return sum + __uint_as_float(*at);
    constexpr int kMostTiles = info(F::kFormat).max_group_tiles;
    float scale;
    if constexpr (F::kTensor && F::kScaled)
      scale =
          F::scale(reinterpret_cast<std::byte*>(scales(room)) + group * info(F::kFormat).scale_bytes, output % kPanel);
    else
      scale = __uint_as_float(scales(room)[slot * kPanel + output % kPanel]);
    if constexpr (F::kInt8) {
      int dot = 0;
#pragma unroll
      for (int i = 0; i < kMostTiles; ++i)
        if (i < count) dot += static_cast<int>(at[i * kOutputs]);
      const float row_scale = __uint_as_float(row_scales(room)[group * kRows + output / kPanel]);
      return fmaf(static_cast<float>(dot), row_scale * scale, sum);
    } else {
      float part = 0.0f;
#pragma unroll
      for (int i = 0; i < kMostTiles; ++i)
        if (i < count) part = part + __uint_as_float(at[i * kOutputs]);
      return fmaf(scale, part, sum);
    }
  }

  __device__ void add(const Weights& w, uint32_t* room, int first, int end, int slice) {
    if (team.thread >= kOutputs) return;
#pragma unroll 4
    for (int t = first, group = 0; t < end; t += w.group, ++group) {
      const int count = end - t < w.group ? end - t : w.group;
#pragma unroll
      for (int i = 0; i < kOwn; ++i)
        if (owned(i) < kOutputs) sum[i] = add_group(room, t - first, group, count, owned(i), sum[i]);
      if (!slice) continue;
      left -= w.group;
      if (left > 0 && t + w.group < w.tiles) continue;
      left = slice;
#pragma unroll
      for (int i = 0; i < kOwn; ++i) grid[i].add(factor[i], sum[i]), sum[i] = 0.0f;
    }
  }
};

// ---- how a block is cut. Few rows, up to four or eight: all its warps share a panel (or two, the gate's and the up
// projection's) and the rows; the tiles are cut among them. Many: each of four warps has one of two panels and eight of
// sixteen rows. kTensor: many, on tensor cores (tensor.h).
enum class Form { kFour, kEight, kMany, kTensor };
constexpr int block_rows(Form form) {
  return form == Form::kFour ? 4 : form == Form::kEight ? 8 : form == Form::kMany ? 16 : 64;
}
constexpr int block_threads(Form form) { return form == Form::kFour || form == Form::kTensor ? 256 : 128; }
constexpr int blocks_at_once(Form form) { return form == Form::kFour ? 2 : 3; }  // on a multiprocessor, at least

constexpr int few_tiles(int panels, int rows) { return 256 / rows / panels; }
template <class F, int kRows, int kTiles, int kOwn>
struct TensorSums;  // tensor.h
template <class F, int kRows, int kTiles, int kOwn>
using SharedSums =
    std::conditional_t<F::kTensor, TensorSums<F, kRows, kTiles, kOwn>, PanelSums<F, kRows, kTiles, kOwn, false>>;
template <class F, int kRows, int kPanels>
using FewSums = SharedSums<F, kRows, few_tiles(kPanels, kRows), kRows == 8 ? kPanels : 1>;
template <class F>
using ManySums = PanelSums<F, 8, 8, 4, true>;

// Shared memory of a block.
template <class F, Form kForm>
struct alignas(16) Room {
  uint32_t words[kForm == Form::kMany    ? 4 * ManySums<F>::kWords
                 : kForm == Form::kEight ? FewSums<F, 8, 1>::kWords
                                         : FewSums<F, 1, 1>::kWords];
};
template <class F, Form kForm>
__device__ uint32_t* room() {
  return simt::shared<Room<F, kForm>>().words;
}

// Calls run(std::integral_constant) with as many rows as sums of the form can have.
template <Form kForm, class Run>
__device__ void with_rows(int rows, const Run& run) {
  if constexpr (kForm != Form::kFour)
    run(std::integral_constant<int, 8>());
  else if (rows <= 1)
    run(std::integral_constant<int, 1>());
  else if (rows <= 2)
    run(std::integral_constant<int, 2>());
  else
    run(std::integral_constant<int, 4>());
}

// How products are made. Integers have the same bits on tensor cores. Counted in code for sm_90, a tile of AMXINT4 and
// r rows took a warp 20 + 8 r instructions by dot products of four bytes, and takes 28 by mma for any r up to eight:
// they go there whatever the number of rows.
struct Method {
  Format format = Format::BF16;
  bool floats = false;  // may go there too

  bool tensor_cores() const { return floats || info(format).int8_activations; }
  Form form(int rows) const {
    return rows <= 4 ? Form::kFour : rows <= 16 ? Form::kEight : tensor_cores() ? Form::kTensor : Form::kMany;
  }
};

// ---- products.cu and tensor.cu, for experts too

// Matrices of one format, with the same inputs; their panels follow one another.
struct LinearJob {
  static constexpr int kMost = 4;
  struct Matrix {
    Weights w;
    float* out;
    int64_t ld;
  };
  Inputs x;
  int rows = 0, count = 0, panels = 0;
  Matrix matrices[kMost] = {};

  // Of a block that has `each` panels of one matrix: the matrix. `block` becomes its block.
  __device__ const Matrix& of_block(int& block, int each) const {
    int i = 0;
    for (; i + 1 < count; ++i) {
      const int blocks = (matrices[i].w.panels + each - 1) / each;
      if (block < blocks) break;
      block -= blocks;
    }
    return matrices[i];
  }
  __device__ const Matrix& of_panel(int& panel) const { return of_block(panel, 1); }
};
// Without tasks, rows are all rows in order.
struct SwigluJob {
  Inputs x;
  Weights gate_up;
  bf16* h = nullptr;
  int64_t ldh = 0;
  int panels = 0;  // of h
  int rows = 0;
  const RowTask* tasks = nullptr;  // one a block
  const int32_t* row = nullptr;    // of x
};
struct SumJob {
  Inputs x;
  Weights w;
  int slice = 0;                 // tiles
  const float* scale = nullptr;  // of rows; null: 1
  double* y = nullptr;
  int64_t ldy = 0;
  int rows = 0;
  const RowTask* tasks = nullptr;  // one a block
  const int32_t* row = nullptr;    // of y
};
// Of a block, if no task says it.
template <class Job>
__device__ RowTask task_of(const Job& job, Form form) {
  if (job.tasks) return job.tasks[blockIdx.x];
  const int most = block_rows(form), first = static_cast<int>(blockIdx.x) * most;
  return {nullptr, nullptr, first, job.rows - first < most ? job.rows - first : most, first};
}
// Of so many blocks of rows.
void launch_swiglu(Method method, Form form, const SwigluJob& job, int blocks, simt::Stream stream);
void launch_sum(Method method, Form form, const SumJob& job, int blocks, simt::Stream stream);

// Rows as products with w take them: quantised into `room` where w's format has 8-bit activations.
Inputs input_rows(const Mat<bf16>& x, const PackedMatrix& w, const QuantisedRoom& room, simt::Stream stream);

}  // namespace kt::SIMT_TABLE
