#pragma once

#include "kernels/cuda/chains.h"

// Products on tensor cores: of quantised rows, whose integers are exact in any order, with the bits of chains.h; of
// bf16 rows with an order of their own.
//
// That order. Two mma steps make the sum of a tile of 32 inputs, from zero; step s has the inputs 4s .. 4s + 3 of every
// eight: the first two of the t-th eight are columns 2t and 2t + 1 of its first operand, the others columns 2t + 8 and
// 2t + 9. Sums of tiles are added in float32, in ascending order, to the sum of their group (of all tiles, if there are
// no scales), and result = fma(scale, group, result). A row's bits depend on no other row, nor on how many there are.
//
// Error of normal numbers, with u = 2^-24 and T = sum |x_i w_i| of a tile: in each sum of the hardware
// (kernels/simt/tensor_core.h) all terms but the largest lose less than u (sm_80) or u / 2 (sm_90) of the largest, and
// the result less than 2 u of itself. Four sums of 8 + 1 terms, or two of 16 + 1: less than 40 u T (sm_80), 20 u T
// (sm_90). Float32 adds u of each partial sum: |error| <= (40 + tiles) u sum |x_i w_i|, with scales (40 + tiles of a
// group + groups) u sum |x_i w_i|.
//
// Weights are the first operand: panels of 16 outputs, lane 4g + t has outputs 2g and 2g + 1 of a tile's lines; rows
// the second one, eight of them. What such a lane gets of a product: outputs 2g (0, 1) and 2g + 1 (2, 3) of the rows
// that are columns 2t (0, 2) and 2t + 1 (1, 3).

namespace kt::SIMT_TABLE {

// What a lane loads of a tile (Raw) and of a row's inputs (In), and mma on them. `twist`: bits of addresses that are
// turned over, in shared memory.
struct TensorFloats {
  static constexpr bool kInt8 = false, kTensor = true;
  static constexpr int kSteps = 2, kRowBytes = 64;  // of a tile's inputs of a row

  using Sum = float;
  using In = uint4;  // 8t .. 8t + 7
  static __device__ In load_row(const std::byte* inputs, int t) { return load<uint4>(inputs + t * 16); }
  static __device__ void multiply(float (&d)[4], const uint32_t (&a)[2][4], const uint4& in) {
    simt::multiply_bf16(d, a[0], {in.x, in.y});
    simt::multiply_bf16(d, a[1], {in.z, in.w});
  }
  static __device__ uint32_t bits(float sum) { return __float_as_uint(sum); }
};
struct TensorInts {
  static constexpr bool kInt8 = true, kTensor = true, kScaled = true;
  static constexpr int kSteps = 1, kRowBytes = 32;

  using Sum = int;
  using In = uint2;  // 4t .. 4t + 3, 4t + 16 .. 4t + 19
  static __device__ In load_row(const std::byte* inputs, int t) {
    return {load<uint32_t>(inputs + t * 4), load<uint32_t>(inputs + t * 4 + 16)};
  }
  static __device__ void multiply(int (&d)[4], const uint32_t (&a)[1][4], const uint2& in) {
    simt::multiply_int8(d, a[0], {in.x, in.y});
  }
};
// Scales of one bf16 for each output.
struct TensorScales {
  static constexpr bool kScaled = true;
  static __device__ float scale(const std::byte* scales, int output) {
    return low_bf16(load<uint16_t>(scales + output * 2));
  }
  static __device__ float2 two_scales(const std::byte* scales, int g) {
    const auto both = load<uint32_t>(scales + g * 4);
    return {low_bf16(both), high_bf16(both)};
  }
};

struct TensorBf16 : TensorFloats {
  static constexpr Format kFormat = Format::BF16;
  static constexpr bool kScaled = false;
  static constexpr int kUnit = 256;  // bytes of a tile that the lanes of one t load from

  struct Raw {
    uint2 line[4];  // 4t .. 4t + 3
  };
  static __device__ Raw load_tile(const std::byte* tile, int g, int t, int twist) {
    Raw raw;
#pragma unroll
    for (int l = 0; l < 4; ++l) raw.line[l] = load<uint2>(tile + ((t * 256 + l * 64 + g * 8) ^ twist));
    return raw;
  }
  static __device__ void operand(const Raw& raw, uint32_t (&a)[2][4]) {
#pragma unroll
    for (int i = 0; i < 8; ++i) a[i / 4][i % 4] = part(raw.line[i / 2], i % 2);
  }
};

struct TensorFp8 : TensorFloats {
  static constexpr Format kFormat = Format::FP8;
  static constexpr bool kScaled = true;
  static constexpr int kUnit = 128;

  struct Raw {
    uint32_t even[2], odd[2];  // 16 bits an output, a byte of each of two lines
  };
  static __device__ Raw load_tile(const std::byte* tile, int g, int t, int twist) {
    const int at = t * 128 + g * 4;
    return {{load<uint32_t>(tile + (at ^ twist)), load<uint32_t>(tile + ((at + 64) ^ twist))},
            {load<uint32_t>(tile + ((at + 32) ^ twist)), load<uint32_t>(tile + ((at + 96) ^ twist))}};
  }
  // Bits of byte i moved into bf16: weights / 2^120; what the chains of the CPU see is weights / 256.
  static __device__ uint32_t weights(uint32_t even, uint32_t odd, uint32_t i) {
    const uint32_t bytes = __byte_perm(even, odd, 0x4000 + 0x1010 * i);
    return simt::fma_bf16((bytes & 0x80008000u) | (bytes >> 4 & 0x07f007f0u), 0x77807780u, 0x80008000u);
  }
  static __device__ void operand(const Raw& raw, uint32_t (&a)[2][4]) {
#pragma unroll
    for (int s = 0; s < 2; ++s) {
      a[s][0] = weights(raw.even[s], raw.odd[s], 0);
      a[s][1] = weights(raw.even[s], raw.odd[s], 2);
      a[s][2] = weights(raw.even[s], raw.odd[s], 1);
      a[s][3] = weights(raw.even[s], raw.odd[s], 3);
    }
  }
  static __device__ float scale(const std::byte* scales, int) { return load<float>(scales); }
  static __device__ float2 two_scales(const std::byte* scales, int) {
    const auto s = load<float>(scales);
    return {s, s};
  }
};

struct TensorRawInt4 : TensorFloats, TensorScales {
  static constexpr Format kFormat = Format::RAWINT4;
  static constexpr int kUnit = 64;

  using Raw =
      uint2;  // an output's nibbles of lines 4t .. 4t + 3: even inputs' in the low 16 bits, odd ones' in the high
  static __device__ Raw load_tile(const std::byte* tile, int g, int t, int twist) {
    return load<uint2>(tile + ((t * 64 + g * 8) ^ twist));
  }
  // Put into the mantissa of 128, less 136.
  static __device__ uint32_t weights(uint32_t nibbles, int line) {
    return simt::fma_bf16((nibbles >> 4 * line & 0x000f000fu) | 0x43004300u, 0x3f803f80u, 0xc308c308u);
  }
  static __device__ void operand(const Raw& raw, uint32_t (&a)[2][4]) {
#pragma unroll
    for (int i = 0; i < 8; ++i) a[i / 4][i % 4] = weights(part(raw, i % 2), i / 2);
  }
};

// Words of four inputs, as signed bytes times 2^kShift.
struct TensorAmxInt8 : TensorInts, TensorScales {
  static constexpr Format kFormat = Format::AMXINT8;
  static constexpr bool kScaled = true;
  static constexpr int kUnit = 64;

  struct Raw {
    uint2 line[2];  // t, t + 4
  };
  static __device__ Raw load_tile(const std::byte* tile, int g, int t, int twist) {
    const std::byte* at = tile + ((t * 64 + g * 8) ^ twist);
    return {{load<uint2>(at), load<uint2>(at + 256)}};
  }
  static __device__ void operand(const Raw& raw, uint32_t (&a)[1][4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) a[0][i] = part(raw.line[i / 2], i % 2) ^ 0x80808080u;
  }
  static __device__ uint32_t bits(int sum) { return static_cast<uint32_t>(sum); }
};
struct TensorAmxInt4 : TensorInts, TensorScales {
  static constexpr Format kFormat = Format::AMXINT4;
  static constexpr bool kScaled = true;
  static constexpr int kUnit = 64;

  using Raw = uint2;  // low nibbles: line t, high ones: t + 4
  static __device__ Raw load_tile(const std::byte* tile, int g, int t, int twist) {
    return load<uint2>(tile + ((t * 64 + g * 8) ^ twist));
  }
  static __device__ void operand(const Raw& raw, uint32_t (&a)[1][4]) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      a[0][i] = (part(raw, i) << 4 & 0xf0f0f0f0u) ^ 0x80808080u;
      a[0][i + 2] = (part(raw, i) & 0xf0f0f0f0u) ^ 0x80808080u;
    }
  }
  static __device__ uint32_t bits(int sum) { return static_cast<uint32_t>(sum >> 4); }
};

// Calls run with the type of products in the format, here or in chains.h.
template <class Run>
void with_tensor_format(Format format, const Run& run) {
  switch (format) {
    case Format::BF16: return run(TensorBf16());
    case Format::FP8: return run(TensorFp8());
    case Format::RAWINT4: return run(TensorRawInt4());
    case Format::AMXINT4: return run(TensorAmxInt4());
    case Format::AMXINT8: return run(TensorAmxInt8());
  }
}
template <class Run>
void with_format(Method method, const Run& run) {
  if (method.tensor_cores()) return with_tensor_format(method.format, run);
  switch (method.format) {
    case Format::BF16: return run(Bf16Chains());
    case Format::FP8: return run(Fp8Chains());
    case Format::RAWINT4: return run(RawInt4Chains());
    case Format::AMXINT4:
    case Format::AMXINT8: return;  // above
  }
}

// PanelSums of up to eight rows: a warp makes the sums of kAhead tiles that follow one another, and loads its next ones
// before what is there is added up. Columns 2t and 2t + 1 of mma are rows t and t + 4.
template <class F, int kRows, int kTiles, int kOwn>
struct TensorSums : PanelSums<F, kRows, kTiles, kOwn, false> {
  using Sums = PanelSums<F, kRows, kTiles, kOwn, false>;
  static constexpr int kAhead = Sums::kTileBytes > 256 ? 4 : 8;

  __device__ void run(const Weights& w, const std::byte* panel, const Inputs& x, const uint32_t (&row)[kRows],
                      uint32_t* room, int slice) {
    this->left = slice;
    const int lane = this->team.thread % 32, warp = this->team.thread / 32, warps = this->team.threads / 32;
    const int g = lane / 4, t = lane % 4;
    // Columns that are no row have those of another one.
    const auto* inputs = reinterpret_cast<const std::byte*>(x.at + chosen(row, g % 2 * 4 + g / 2) * x.stride);

    typename F::Raw raw[kAhead];
    typename F::In in[kAhead];
    const auto load_from = [&](int tile, int end) {
      const std::byte* weights = panel + static_cast<int64_t>(tile) * Sums::kTileBytes;
      const std::byte* from = inputs + static_cast<int64_t>(tile) * F::kRowBytes;
#pragma unroll
      for (int i = 0; i < kAhead; ++i)
        if (tile + i < end) {
          raw[i] = F::load_tile(weights + i * Sums::kTileBytes, g, t, 0);
          in[i] = F::load_row(from + i * F::kRowBytes, t);
        }
    };
    const auto make = [&](int tile, int first, int end) {
      uint32_t* at = room + (tile - first) * Sums::kOutputs + tensor_place(t * kPanel + 2 * g);
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (tile + i >= end) break;
        uint32_t a[F::kSteps][4];
        F::operand(raw[i], a);
        typename F::Sum d[4] = {};
        F::multiply(d, a, in[i]);
        uint32_t* to = at + i * Sums::kOutputs;
        if (t < kRows) *reinterpret_cast<uint2*>(to) = {F::bits(d[0]), F::bits(d[2])};
        if (t + 4 < kRows) *reinterpret_cast<uint2*>(to + 4 * kPanel) = {F::bits(d[1]), F::bits(d[3])};
      }
    };

    // Scales of the groups in [first, end), as they are stored: they come while sums are made. Groups of one, two or
    // four tiles: those of kTiles are whole pieces of 16 bytes.
    constexpr int kRowScales = F::kInt8 ? kTiles * kRows / 64 : 1;  // of a thread, of 64 at least
    [[maybe_unused]] float row_scale[kRowScales];
    const auto groups_in = [&](int first, int end) { return (end - first + w.group - 1) / w.group; };
    const auto load_scales = [&](int first, int end) {
      if constexpr (F::kScaled) {
        const int count = groups_in(first, end);
        const std::byte* from = panel + w.scales_at + first / w.group * info(F::kFormat).scale_bytes;
        auto* to = reinterpret_cast<std::byte*>(this->scales(room));
        for (int i = this->team.thread * 16; i < count * info(F::kFormat).scale_bytes; i += this->team.threads * 16)
          simt::copy16(to + i, from + i);
        simt::commit();
        if constexpr (F::kInt8) {
#pragma unroll
          for (int i = 0; i < kRowScales; ++i) {
            const int group = this->owned(i) / kRows;
            if (group >= count) continue;
            const uint32_t at = chosen(row, this->owned(i) % kRows) * x.group_stride;
            row_scale[i] = x.groups[at + static_cast<uint32_t>(first / w.group + group)].scale;
          }
        }
      }
    };
    const auto store_scales = [&](int first, int end) {
      if constexpr (F::kScaled) {
        simt::wait<0>();
        if constexpr (F::kInt8) {
          const int count = groups_in(first, end) * kRows;
#pragma unroll
          for (int i = 0; i < kRowScales; ++i)
            if (this->owned(i) < count) this->row_scales(room)[this->owned(i)] = __float_as_uint(row_scale[i]);
        }
      }
    };

    const int step = kTiles / w.group * w.group;
    int first = 0, end = step < w.tiles ? step : w.tiles, tile = warp * kAhead;
    load_scales(first, end);
    for (;;) {
      const int after = end + step < w.tiles ? end + step : w.tiles;
      load_from(tile, tile < end ? end : after);
      if (tile >= end) {  // what is loaded is of those that are added up next
        store_scales(first, end);
        this->sync();
        this->add(w, room, first, end, slice);
        this->sync();
        first = end;
        end = after;
        if (first >= w.tiles) return;
        load_scales(first, end);
      }
      make(tile, first, end);
      tile += warps * kAhead;
      if (tile >= end) tile = end + warp * kAhead;
    }
  }

 private:
  // A loop over registers, as an index would put them into memory.
  static __device__ uint32_t chosen(const uint32_t (&row)[kRows], int i) {
    uint32_t found = row[0];
#pragma unroll
    for (int r = 1; r < kRows; ++r) found = r == i ? row[r] : found;
    return found;
  }
};

// ---- tensor.cu: for many rows
void launch_linear_tensor(Format format, const LinearJob& job, simt::Stream stream);
void launch_swiglu_tensor(Format format, const SwigluJob& job, int blocks, simt::Stream stream);
void launch_sum_tensor(Format format, const SumJob& job, int blocks, simt::Stream stream);

}  // namespace kt::SIMT_TABLE
