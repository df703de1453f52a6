// Latent attention around its attending: norms of latents, queries through their heads' key projections, sums through
// the value projections.

#include "kernels/cuda/latent.h"

#include <algorithm>
#include <stdexcept>

#include "kernels/cuda/arithmetic.h"

namespace kt::SIMT_TABLE {

HeadMatrices head_matrices(const PackedMatrix* matrices, int heads) {
  HeadMatrices m{matrices[0], heads > 1 ? matrices[1].data - matrices[0].data : 0};
  for (int h = 0; h < heads; ++h)
    if (matrices[h].format != Format::BF16 || matrices[h].n != m.first.n || matrices[h].k != m.first.k ||
        matrices[h].data != m.first.data + h * m.stride)
      throw std::logic_error("heads' matrices are expected in bf16, equal and equally far apart");
  return m;
}

namespace {

constexpr float kLatentEps = 1e-6f;  // of the latents' norms, in the releases' code whatever rms_norm_eps says

// ---- norms

constexpr int kNormThreads = 128;

// The sum of term(i) over n elements in sixteen lanes, known to all; each half of a warp adds all of it.
template <class Add>
__device__ float lane_sum(int n, const Add& add) {
  float lane = 0.0f;
#pragma unroll 8
  for (int i = threadIdx.x % 16; i < n; i += 16) lane = add(i, lane);
  return fold16_all(lane);
}
__device__ float inverse_norm(const float* x, int n) {
  const float squares = lane_sum(n, [&](int i, float lane) { return fmaf(x[i], x[i], lane); });
  return 1.0f / sqrtf(squares / static_cast<float>(n) + kLatentEps);
}

__device__ void norm_query(const LatentLayer& l, const float* x, bf16* out) {
  const int n = l.heads.q_rank;
  const float r = inverse_norm(x, n);
  for (int i = threadIdx.x; i < round_up(n, kTileK); i += kNormThreads)
    out[i] = i < n ? to_bf16(x[i] * r * l.q_norm[i]) : bf16{0};
}
__device__ void norm_key(const LatentLayer& l, const float* x, const float* cosines, const float* sines, int half,
                         bf16* out) {
  const int n = l.heads.kv_rank;
  const float r = inverse_norm(x, n);
  for (int i = threadIdx.x; i < l.heads.cached_dim(); i += kNormThreads)
    out[i] = to_bf16(i < n ? x[i] * r * l.kv_norm[i] : rotated_pair(x + n, i - n, cosines, sines, half));
}
// Into the packed matrix of a page's index keys, as output `offset`.
__device__ void norm_index_key(const LatentLayer& l, const float* x, const float* cosines, const float* sines, int half,
                               int offset, bf16* keys) {
  const int n = l.heads.index_dim;
  const float mean = lane_sum(n, [&](int i, float lane) { return lane + x[i]; }) / static_cast<float>(n);
  const float squares = lane_sum(n, [&](int i, float lane) {
    const float d = x[i] - mean;
    return fmaf(d, d, lane);
  });
  const float r = 1.0f / sqrtf(squares / static_cast<float>(n) + kLatentEps);
  const auto normed = [&](int i) { return fmaf((x[i] - mean) * r, l.index_norm[i], l.index_bias[i]); };
  bf16* panel = keys + static_cast<int64_t>(offset / kPanel) * kPanel * n + 2 * (offset % kPanel);
  for (int i = threadIdx.x; i < n; i += kNormThreads)
    panel[i / 2 * kTileK + i % 2] = to_bf16(rotated_half(normed, i, cosines, sines, half));
}

// A block: a row's query latent, its key latent, or its index key. A thread: every 128th element; sums by half warps.
__global__ void __launch_bounds__(kNormThreads)
    norm_latents(LatentLayer l, DeviceBatch batch, int first, LatentRows projected, Mat<bf16> q_latent) {
  const int i = static_cast<int>(blockIdx.x), r = first + i, half = batch.half;
  const float *cosines = batch.cosines + static_cast<int64_t>(r) * half,
              *sines = batch.sines + static_cast<int64_t>(r) * half;
  const int64_t place = batch.places[r];
  bf16* page = l.pages.page(place / kKvBlock);
  const int offset = static_cast<int>(place % kKvBlock);
  if (blockIdx.y == 0)
    norm_query(l, projected.q.row(i), q_latent.row(i));
  else if (blockIdx.y == 1)
    norm_key(l, projected.kv.row(i), cosines, sines, half, page + static_cast<int64_t>(offset) * l.heads.cached_dim());
  else
    norm_index_key(l, projected.index_key.row(i), cosines, sines, half, offset, page + l.heads.latent_elements());
}

// ---- products with a matrix of each head

constexpr int kStages = 4, kGroups = 16;
using Weights = PanelWeights<kGroups>;
constexpr int kPanels = Weights::kColumns / kPanel;

template <int R>
struct ProductStage {
  static constexpr int kRows = R * kChainThreads / kGroups;
  alignas(16) bf16 w[kTileK * Weights::kColumns];
  alignas(16) bf16 x[kRows * kTileK];
};

// Sums of kRows rows and kColumns outputs of a head's matrix, from panel `first` on; copy_x(x, tile) fills x.
template <int R, class CopyX>
__device__ void multiply_head(const HeadMatrices& w, int head, int first, const CopyX& copy_x, ChainSums<R, 8>& c) {
  auto* stages = simt::dynamic_shared<ProductStage<R>>();
  const int group = threadIdx.x / kGroups, g = threadIdx.x % kGroups, panels = w.first.panels() - first;
  c.clear();
  in_stages<kStages>(
      w.first.k_tiles(),
      [&](int t, int stage) {
        copy_panels<kPanels>(stages[stage].w, panels, [&](int i) { return w.tile(head, first + i, t); });
        copy_x(stages[stage].x, t);
      },
      [&](int, int stage) {
        c.add(stages[stage].x + group * R * kTileK, kTileK, Weights{stages[stage].w, g});
      });
}

// to_bf16 of what multiply_head leaves, to row(i) + panel `first`.
template <int R, class Row>
__device__ void store_head(const ChainSums<R, 8>& c, int rows, int first, int n, const Row& row) {
  const int group = threadIdx.x / kGroups, g = threadIdx.x % kGroups;
#pragma unroll
  for (int i = 0; i < R; ++i) {
    if (group * R + i >= rows) continue;
    bf16* to = row(group * R + i);
#pragma unroll
    for (int j = 0; j < 8; j += 2) {
      const int column = first * kPanel + Weights::column(g, j);
      if (column < n) *reinterpret_cast<uint32_t*>(to + column) = two_bf16(c.sum[i][j], c.sum[i][j + 1]);
    }
  }
}

// A block: 16 R rows of one head and 128 columns of its latent queries; a thread: R rows, 8 columns. Blocks of the
// first columns see to the rotated part too.
template <int R>
__global__ void __launch_bounds__(kChainThreads)
    absorb_queries(LatentHeads m, HeadMatrices key_up, DeviceBatch batch, int first, Mat<float> q, Mat<bf16> query) {
  constexpr int kRows = ProductStage<R>::kRows;
  const int head = static_cast<int>(blockIdx.x), row = static_cast<int>(blockIdx.y) * kRows,
            panel = static_cast<int>(blockIdx.z) * kPanels, rows = smaller_of(kRows, q.rows - row);
  const auto at = [&](int i) { return q.row(row + i) + static_cast<int64_t>(head) * m.head_dim(); };
  const auto to = [&](int i) { return query.row(row + i) + static_cast<int64_t>(head) * m.cached_dim(); };
  if (panel == 0)
    for (int i = threadIdx.x; i < rows * m.rope_dim; i += kChainThreads) {
      const int mine = i / m.rope_dim, column = i % m.rope_dim;
      const int64_t angles = static_cast<int64_t>(first + row + mine) * batch.half;
      to(mine)[m.kv_rank + column] = to_bf16(
          rotated_pair(at(mine) + m.nope_dim, column, batch.cosines + angles, batch.sines + angles, batch.half));
    }
  ChainSums<R, 8> c;
  const auto round_x = [&](bf16* x, int t) {
    for (int i = threadIdx.x; i < kRows * kTileK / 2; i += kChainThreads) {
      const int mine = i / (kTileK / 2), pair = i % (kTileK / 2);
      uint32_t both = 0;
      if (mine < rows) {
        const float2 v = *reinterpret_cast<const float2*>(at(mine) + t * kTileK + 2 * pair);
        both = two_bf16(v.x, v.y);
      }
      *reinterpret_cast<uint32_t*>(x + 2 * i) = both;
    }
  };
  multiply_head(key_up, head, panel, round_x, c);
  store_head(c, rows, panel, m.kv_rank, to);
}

// A block: 16 R rows of one head and 128 of its outputs; a thread: R rows, 8 columns.
template <int R>
__global__ void __launch_bounds__(kChainThreads)
    lift_values(LatentHeads m, HeadMatrices value_up, Mat<bf16> sums, Mat<bf16> out) {
  constexpr int kRows = ProductStage<R>::kRows;
  const int head = static_cast<int>(blockIdx.x), row = static_cast<int>(blockIdx.y) * kRows,
            panel = static_cast<int>(blockIdx.z) * kPanels, rows = smaller_of(kRows, sums.rows - row);
  ChainSums<R, 8> c;
  const auto copy_x = [&](bf16* x, int t) {
    copy_tile<kRows, false>(
        x, rows, [&](int i) { return sums.row(row + i) + static_cast<int64_t>(head) * m.kv_rank + t * kTileK; });
  };
  multiply_head(value_up, head, panel, copy_x, c);
  store_head(c, rows, panel, m.value_dim,
             [&](int i) { return out.row(row + i) + static_cast<int64_t>(head) * m.value_dim; });
}

constexpr int kFewRows = ProductStage<1>::kRows;

template <int R>
dim3 head_grid(int heads, int rows, int n) {
  return dim3(static_cast<unsigned>(heads), static_cast<unsigned>(ceil_div(rows, ProductStage<R>::kRows)),
              static_cast<unsigned>(ceil_div(n, Weights::kColumns)));
}
template <int R>
constexpr size_t kSharedBytes = kStages * sizeof(ProductStage<R>);

}  // namespace

void CudaDevice::latents(const LatentLayer& l, RowRange rows, const LatentRows& projected, const Mat<bf16>& q_latent) {
  if (!rows.count) return;
  simt::launch(dim3(static_cast<unsigned>(rows.count), l.heads.top_k ? 3 : 2), kNormThreads, 0, stream_, norm_latents,
               l, batch_, rows.first, projected, q_latent);
}

void CudaDevice::absorb(const LatentLayer& l, RowRange rows, const Mat<float>& q, const Mat<bf16>& query) {
  if (!rows.count) return;
  const LatentHeads& m = l.heads;
  const HeadMatrices w = head_matrices(l.key_up, m.heads);
  const Mat<float> mine = q.top(rows.count);
  if (rows.count <= kFewRows)
    simt::launch(head_grid<1>(m.heads, rows.count, m.kv_rank), kChainThreads, kSharedBytes<1>, stream_,
                 absorb_queries<1>, m, w, batch_, rows.first, mine, query);
  else
    simt::launch(head_grid<4>(m.heads, rows.count, m.kv_rank), kChainThreads, kSharedBytes<4>, stream_,
                 absorb_queries<4>, m, w, batch_, rows.first, mine, query);
}

void CudaDevice::value_up(const LatentLayer& l, const Mat<bf16>& sums, const Mat<bf16>& out) {
  if (!sums.rows) return;
  const LatentHeads& m = l.heads;
  const HeadMatrices w = head_matrices(l.value_up, m.heads);
  if (sums.rows <= kFewRows)
    simt::launch(head_grid<1>(m.heads, sums.rows, m.value_dim), kChainThreads, kSharedBytes<1>, stream_, lift_values<1>,
                 m, w, sums, out);
  else
    simt::launch(head_grid<4>(m.heads, sums.rows, m.value_dim), kChainThreads, kSharedBytes<4>, stream_, lift_values<4>,
                 m, w, sums, out);
}

}  // namespace kt::SIMT_TABLE
