// Products of many rows on tensor cores; tensor.h says in which order.

#include "kernels/cuda/tensor.h"

namespace kt::SIMT_TABLE {
namespace {

// A block has 64 rows and eight panels of one matrix, a warp 32 of the rows and two of the panels. Tiles go through
// stages of shared memory, some at a time.
constexpr int kRows = block_rows(Form::kTensor), kThreads = block_threads(Form::kTensor), kPanels = 8, kStages = 3;
constexpr int kWarpRows = 32, kWarpPanels = 2, kEights = kWarpRows / 8;  // rows of an mma

template <class F>
struct Stage {
  static constexpr int kTileBytes = info(F::kFormat).tile_bytes;
  static constexpr int kTiles = F::kInt8 || kTileBytes == 256 ? 4 : 2;
  static constexpr int kPanelBytes = kTiles * kTileBytes, kWeightBytes = kPanels * kPanelBytes;
  static constexpr int kParts = kTiles * F::kRowBytes / 64, kPartBytes = kRows * 64;  // of 64 bytes of each row
  static constexpr int kBytes = kWeightBytes + kParts * kPartBytes;
};
// Places of 16 bytes, such that what eight neighbouring lanes load lies in different banks: of weights in a tile, and
// of a row's four pieces in a part.
template <class F>
__device__ int weight_place(int piece) {
  return (piece * 16) ^ (piece * 16 / F::kUnit % 4 * 32);
}
template <class F>
__device__ int row_place(int row, int piece) {
  return F::kInt8 ? piece * kRows * 16 + ((row * 16) ^ (piece * 32)) : row * 64 + piece * 16;
}

// Rows `first` and on of the inputs, or of those whose numbers follow one another there.
struct BlockRows {
  const int32_t* index;
  int first, count;

  __device__ int64_t at(int i) const {
    const int r = first + (i < count ? i : count - 1);
    return index ? index[r] : r;
  }
};

// Sums of a block. Each thread has those of rows row(j, i) and outputs output(i) of panels panel(p).
template <class F>
struct BlockSums {
  using S = Stage<F>;
  template <class T>
  using Own = T[kWarpPanels][kEights][4];

  Own<float> sum = {};

  static __device__ int g() { return static_cast<int>(threadIdx.x) % 32 / 4; }
  static __device__ int t() { return static_cast<int>(threadIdx.x) % 4; }
  static __device__ int warp() { return static_cast<int>(threadIdx.x) / 32; }
  static __device__ int first_row() { return warp() / 4 * kWarpRows; }
  static __device__ int panel(int p) { return warp() % 4 * kWarpPanels + p; }
  static __device__ int row(int j, int i) { return first_row() + j * 8 + 2 * t() + i % 2; }
  static __device__ int output(int i) { return 2 * g() + i / 2; }
  static __device__ constexpr int number(int p, int j, int i) { return (p * kEights + j) * 4 + i; }

  // use(p, j, i) of all that the thread has.
  template <class Use>
  static __device__ void each(const Use& use) {
#pragma unroll
    for (int p = 0; p < kWarpPanels; ++p)
#pragma unroll
      for (int j = 0; j < kEights; ++j)
#pragma unroll
        for (int i = 0; i < 4; ++i) use(p, j, i);
  }

  // Adds the tiles [begin, end) to sums; whole groups, and slices (in tiles), but for the last one of all. Calls
  // finish(), which takes the sums, after each slice. All threads of the block come here.
  template <bool kSliced, class Finish>
  __device__ void run(const Weights& w, int first_panel, const Inputs& x, const BlockRows& rows, int begin, int end,
                      int slice, const Finish& finish) {
    auto* memory = simt::dynamic_shared<std::byte>();
    const int thread = static_cast<int>(threadIdx.x);
    const bool own_row = thread / 4 < rows.count, active = first_row() < rows.count;
    const uint4* from_row = x.at + rows.at(thread / 4) * x.stride + thread % 4;
    const auto fill = [&](int tile, std::byte* stage) {
      constexpr int kPieces = S::kPanelBytes / 16, kEach = kThreads / kPieces, kRowPieces = F::kRowBytes / 16;
      const int at = thread % kPieces * 16, ahead = at / S::kTileBytes, first = thread / kPieces;
      const std::byte* from = w.panel(first_panel + first) + static_cast<int64_t>(tile) * S::kTileBytes + at;
      std::byte* to = stage + ahead * S::kTileBytes + weight_place<F>(at % S::kTileBytes / 16);
#pragma unroll
      for (int panel = 0; panel < kPanels; panel += kEach) {
        const bool use = tile + ahead < end && first_panel + first + panel < w.panels;
        simt::copy16(to + (first + panel) * S::kPanelBytes, use ? from + panel * w.panel_bytes : w.data, use);
      }
#pragma unroll
      for (int part = 0; part < S::kParts; ++part) {
        const int piece = part * 4 + thread % 4;
        const bool use = own_row && tile + piece / kRowPieces < end;
        simt::copy16(stage + S::kWeightBytes + part * S::kPartBytes + row_place<F>(thread / 4, thread % 4),
                     from_row + (use ? tile * kRowPieces + part * 4 : 0), use);
      }
    };

    Coming coming(w, first_panel, x, rows, begin);
    int left = slice;
#pragma unroll
    for (int s = 0; s < kStages - 1; ++s) {
      if (begin + s * S::kTiles < end) fill(begin + s * S::kTiles, memory + s * S::kBytes);
      simt::commit();
    }
    int stage = 0;
    for (int tile = begin; tile < end; tile += S::kTiles) {
      simt::wait<kStages - 2>();
      __syncthreads();  // the stage is there for all, and nobody reads the one that is filled next
      const int next = tile + (kStages - 1) * S::kTiles;
      if (next < end) fill(next, memory + (stage ? stage - 1 : kStages - 1) * S::kBytes);
      simt::commit();
      const std::byte* at = memory + stage * S::kBytes;
      stage = stage + 1 < kStages ? stage + 1 : 0;
      if (!active) continue;
#pragma unroll 1  // registers are few
      for (int i = 0; i < S::kTiles; ++i) {
        if (tile + i >= end) break;
        add_tile(at, i, coming);
        if constexpr (F::kScaled) coming.passed(tile + i, end, *this);
        if (kSliced && (--left == 0 || tile + i + 1 == end)) {
          left = slice;
          finish();
        }
      }
    }
  }

 private:
  // Sums of the group that is on its way, and its scales, loaded when the last one ended.
  struct Coming {
    static constexpr int kScaleBytes = info(F::kFormat).scale_bytes;
    Own<typename F::Sum> part = {};
    const std::byte* scales;  // of the first panel
    int second;               // from there to those of the second
    const QuantGroup* groups;
    uint32_t row_groups[F::kInt8 ? kEights : 1][2];
    float2 two[kWarpPanels];
    float row_scale[F::kInt8 ? kEights : 1][2];
    int group, left;

    __device__ Coming(const Weights& w, int first_panel, const Inputs& x, const BlockRows& rows, int begin)
        : groups(F::kInt8 ? x.groups + begin / w.group : nullptr), group(w.group), left(w.group) {
      const int of = first_panel + panel(0);
      scales = w.panel(of < w.panels ? of : w.panels - 1) + w.scales_at + begin / w.group * kScaleBytes;
      second = of + 1 < w.panels ? static_cast<int>(w.panel_bytes) : 0;
      if constexpr (F::kInt8)
#pragma unroll
        for (int j = 0; j < kEights; ++j)
#pragma unroll
          for (int i = 0; i < 2; ++i) row_groups[j][i] = static_cast<uint32_t>(rows.at(row(j, i))) * x.group_stride;
      load_scales();
    }
    __device__ void load_scales() {
      if constexpr (F::kScaled) {
#pragma unroll
        for (int p = 0; p < kWarpPanels; ++p) two[p] = F::two_scales(scales + p * second, g());
        scales += kScaleBytes;
      }
      if constexpr (F::kInt8) {
#pragma unroll
        for (int j = 0; j < kEights; ++j)
#pragma unroll
          for (int i = 0; i < 2; ++i) row_scale[j][i] = groups[row_groups[j][i]].scale;
        ++groups;
      }
    }
    // Scales and adds the group if this was its last tile.
    __device__ void passed(int tile, int end, BlockSums& sums) {
      if constexpr (info(F::kFormat).max_group_tiles > 1) {
        if (--left && tile + 1 < end) return;
        left = group;
      }
      each([&](int p, int j, int i) {
        const float scale = i / 2 ? two[p].y : two[p].x;
        float& sum = sums.sum[p][j][i];
        if constexpr (F::kInt8)
          sum = fmaf(static_cast<float>(static_cast<int>(F::bits(part[p][j][i]))), row_scale[j][i % 2] * scale, sum);
        else
          sum = fmaf(scale, part[p][j][i], sum);
        part[p][j][i] = 0;
      });
      if (tile + 1 < end) load_scales();
    }
  };

  __device__ void add_tile(const std::byte* stage, int i, Coming& coming) {
    uint32_t a[kWarpPanels][F::kSteps][4];
#pragma unroll
    for (int p = 0; p < kWarpPanels; ++p)
      F::operand(F::load_tile(stage + panel(p) * S::kPanelBytes + i * S::kTileBytes, g(), t(), t() * 32), a[p]);
    const std::byte* rows = stage + S::kWeightBytes + i * F::kRowBytes / 64 * S::kPartBytes;
    if constexpr (F::kInt8) {
      const int lane = static_cast<int>(threadIdx.x) % 32, piece = i % 2 * 2 + lane / 8 % 2;
#pragma unroll
      for (int j = 0; j < kEights; j += 2) {
        uint32_t in[4];
        simt::load_matrices(in, rows + row_place<F>(first_row() + (j + lane / 16) * 8 + lane % 8, piece));
#pragma unroll
        for (int p = 0; p < kWarpPanels; ++p) {
          F::multiply(coming.part[p][j], a[p], {in[0], in[1]});
          F::multiply(coming.part[p][j + 1], a[p], {in[2], in[3]});
        }
      }
    } else {
#pragma unroll
      for (int j = 0; j < kEights; ++j) {
        const auto in = load<uint4>(rows + row_place<F>(first_row() + j * 8 + g(), t()));
#pragma unroll
        for (int p = 0; p < kWarpPanels; ++p) {
          float d[4] = {};
          F::multiply(d, a[p], in);
          float(&to)[4] = F::kScaled ? coming.part[p][j] : sum[p][j];
#pragma unroll
          for (int k = 0; k < 4; ++k) to[k] = to[k] + d[k];
        }
      }
    }
  }
};

template <class F>
__global__ void __launch_bounds__(kThreads, F::kInt8 ? 1 : 2) linear_tensor(LinearJob job) {
  using Sums = BlockSums<F>;
  int block = static_cast<int>(blockIdx.y);
  const LinearJob::Matrix& m = job.of_block(block, kPanels);
  const int first = static_cast<int>(blockIdx.x) * kRows, count = job.rows - first < kRows ? job.rows - first : kRows;
  Sums sums;
  sums.template run<false>(m.w, block * kPanels, job.x, {nullptr, first, count}, 0, m.w.tiles, 0, [] {});
  Sums::each([&](int p, int j, int i) {
    const int row = Sums::row(j, i), panel = block * kPanels + Sums::panel(p);
    if (row < count && panel < m.w.panels)
      m.out[(first + row) * m.ld + panel * kPanel + Sums::output(i)] = sums.sum[p][j][i];
  });
}

// A warp's two panels are one of the gate and the one of the up projection.
template <class F>
__global__ void __launch_bounds__(kThreads, F::kInt8 ? 1 : 2) swiglu_tensor(SwigluJob job) {
  using Sums = BlockSums<F>;
  const RowTask task = task_of(job, Form::kTensor);
  const Weights w = task.gate_up ? job.gate_up.at(task.gate_up) : job.gate_up;
  const int first_panel = static_cast<int>(blockIdx.y) * kPanels;
  Sums sums;
  sums.template run<false>(w, first_panel, job.x, {job.row, task.first, task.count}, 0, w.tiles, 0, [] {});
  Sums::each([&](int p, int j, int i) {
    const int row = Sums::row(j, i), panel = (first_panel + Sums::panel(0)) / 2;
    if (!p && row < task.count && panel < job.panels)
      job.h[(task.at + row) * job.ldh + panel * kPanel + Sums::output(i)] =
          to_bf16(silu(sums.sum[0][j][i]) * sums.sum[1][j][i]);
  });
}

// Of some tiles, at most kMostSlices: what GridSum splits them into fits into 32 bits.
constexpr int kMostSlices = 256;
template <class F>
__global__ void __launch_bounds__(kThreads, 1) sum_tensor(SumJob job, int begin, int end) {
  using Sums = BlockSums<F>;
  const RowTask task = task_of(job, Form::kTensor);
  const Weights w = task.down ? job.w.at(task.down) : job.w;
  const int first_panel = static_cast<int>(blockIdx.y) * kPanels;
  const auto place = [&](int p, int j, int i) {
    const int64_t r = task.first + Sums::row(j, i);
    return job.y + (job.row ? job.row[r] : r) * job.ldy + (first_panel + Sums::panel(p)) * kPanel + Sums::output(i);
  };
  float factor[kEights][2];
#pragma unroll
  for (int j = 0; j < kEights; ++j)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row = Sums::row(j, i);
      factor[j][i] = row >= task.count ? 0.0f : job.scale ? job.scale[task.first + row] : 1.0f;
    }

  Sums sums;
  typename Sums::template Own<int> near = {}, rest = {};
  sums.template run<true>(w, first_panel, job.x, {nullptr, task.at, task.count}, begin, end, job.slice, [&] {
    uint32_t far = 0;
    Sums::each([&](int p, int j, int i) {
      int a, b;
      if (GridSum::split(factor[j][i % 2], sums.sum[p][j][i], a, b))
        near[p][j][i] += a, rest[p][j][i] += b;
      else if (first_panel + Sums::panel(p) < w.panels)
        far |= 1u << Sums::number(p, j, i);
    });
    for (int n = 0; far; ++n, far >>= 1) {
      if (!(far & 1)) continue;
      float f = 0.0f, y = 0.0f;
      Sums::each([&](int p, int j, int i) {  // an index would put the sums into memory
        if (n == Sums::number(p, j, i)) f = factor[j][i % 2], y = sums.sum[p][j][i];
      });
      atomicAdd(place(n / (4 * kEights), n / 4 % kEights, n % 4), to_grid(static_cast<double>(f) * y));
    }
    Sums::each([&](int p, int j, int i) { sums.sum[p][j][i] = 0.0f; });
  });
  Sums::each([&](int p, int j, int i) {
    if (Sums::row(j, i) >= task.count || first_panel + Sums::panel(p) >= w.panels) return;
    const double value = near[p][j][i] * (1.0 / (1 << 10)) + rest[p][j][i] * (1.0 / (1ll << 32));
    double* to = place(p, j, i);
    if (job.tasks)
      atomicAdd(to, value);
    else
      *to = *to + value;
  });
}

dim3 grid_of(int row_blocks, int panel_blocks) {
  return dim3(static_cast<unsigned>(row_blocks), static_cast<unsigned>(panel_blocks));
}
template <class F>
constexpr size_t kMemory = kStages* Stage<F>::kBytes;
int panel_blocks(int panels) { return static_cast<int>(ceil_div(panels, kPanels)); }

}  // namespace

void launch_linear_tensor(Format format, const LinearJob& job, simt::Stream stream) {
  int blocks = 0;
  for (int i = 0; i < job.count; ++i) blocks += panel_blocks(job.matrices[i].w.panels);
  const dim3 grid = grid_of(static_cast<int>(ceil_div(job.rows, kRows)), blocks);
  with_tensor_format(format, [&](auto f) {
    using F = decltype(f);
    simt::launch(grid, dim3(kThreads), kMemory<F>, stream, linear_tensor<F>, job);
  });
}
void launch_swiglu_tensor(Format format, const SwigluJob& job, int blocks, simt::Stream stream) {
  const dim3 grid = grid_of(blocks, panel_blocks(2 * job.panels));
  with_tensor_format(format, [&](auto f) {
    using F = decltype(f);
    simt::launch(grid, dim3(kThreads), kMemory<F>, stream, swiglu_tensor<F>, job);
  });
}
void launch_sum_tensor(Format format, const SumJob& job, int blocks, simt::Stream stream) {
  const dim3 grid = grid_of(blocks, panel_blocks(job.w.panels));
  const int most = kMostSlices * job.slice;
  with_tensor_format(format, [&](auto f) {
    using F = decltype(f);
    for (int begin = 0; begin < job.w.tiles; begin += most) {
      const int end = begin + most < job.w.tiles ? begin + most : job.w.tiles;
      simt::launch(grid, dim3(kThreads), kMemory<F>, stream, sum_tensor<F>, job, begin, end);
    }
  });
}

}  // namespace kt::SIMT_TABLE
