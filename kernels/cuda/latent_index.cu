// DeepSeek sparse attention: the lightning indexer scores all keys of a row, and the row attends to the best top_k.

#include <algorithm>
#include <cmath>

#include "kernels/cuda/latent.h"

namespace kt::SIMT_TABLE {
namespace {

// A block: a row's index queries, rotated and rounded. A thread: every 256th element.
__global__ void __launch_bounds__(kChainThreads)
    round_index_queries(LatentHeads m, DeviceBatch batch, int first, Mat<float> q, Mat<bf16> q16) {
  const int i = static_cast<int>(blockIdx.x), r = first + i;
  if (!picks(m, batch.positions[r])) return;
  const int64_t angles = static_cast<int64_t>(r) * batch.half;
  for (int c = threadIdx.x; c < m.index_heads * m.index_dim; c += kChainThreads) {
    const float* head = q.row(i) + c / m.index_dim * m.index_dim;
    q16.row(i)[c] = to_bf16(rotated_half([&](int e) { return head[e]; }, c % m.index_dim, batch.cosines + angles,
                                         batch.sines + angles, batch.half));
  }
}

// ---- scores

constexpr int kGroups = 16, kHeads = 4 * kChainThreads / kGroups;  // of heads and keys at a time
using Keys = PanelWeights<kGroups>;
constexpr int kPanels = Keys::kColumns / kPanel, kPagePanels = kKvBlock / kPanel;

struct ScoreRoom {
  alignas(16) bf16 w[2][kTileK * Keys::kColumns];
  alignas(16) bf16 x[2][kHeads * kTileK];
  alignas(16) float dots[kHeads][Keys::kColumns];
};

// Rows [first, first + rows) of a call, `room` scores for each.
struct IndexWave {
  int first = 0, rows = 0;
  int64_t room = 0;
  float* scores = nullptr;
};

// A block: 128 keys of a row, 64 index heads at a time. A thread: products of 4 heads and 8 keys, then a key's sum over
// the heads in order.
__global__ void __launch_bounds__(kChainThreads) score_keys(LatentLayer l, DeviceBatch batch, int first, IndexWave wave,
                                                            Mat<bf16> q16, Mat<float> weights, float scale) {
  auto& s = *simt::dynamic_shared<ScoreRoom>();
  const LatentHeads& m = l.heads;
  const int row = wave.first + static_cast<int>(blockIdx.y), r = first + row, position = batch.positions[r],
            key = static_cast<int>(blockIdx.x) * Keys::kColumns, t = static_cast<int>(threadIdx.x), group = t / kGroups,
            g = t % kGroups, tiles = m.index_dim / kTileK;
  if (!picks(m, position) || key > position) return;
  const int32_t* blocks = batch.blocks + batch.slices[batch.slice_of[r]].block + key / kKvBlock;
  const int pages = smaller_of(Keys::kColumns / kKvBlock, position / kKvBlock + 1 - key / kKvBlock);
  float sum = 0.0f;
  for (int head = 0; head < m.index_heads; head += kHeads) {
    const int heads = smaller_of(kHeads, m.index_heads - head);
    ChainSums<4, 8> c;
    c.clear();
    in_stages<2>(
        tiles,
        [&](int tile, int stage) {
          copy_panels<kPanels>(s.w[stage], pages * kPagePanels, [&](int i) {
            const bf16* keys = l.pages.page(blocks[i / kPagePanels]) + m.latent_elements();
            return keys + (static_cast<int64_t>(i % kPagePanels) * tiles + tile) * kPanel * kTileK;
          });
          copy_tile<kHeads, false>(s.x[stage], heads, [&](int h) {
            return q16.row(row) + static_cast<int64_t>(head + h) * m.index_dim + tile * kTileK;
          });
        },
        [&](int, int stage) {
          c.add(s.x[stage] + group * 4 * kTileK, kTileK, Keys{s.w[stage], g});
        });
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 8; j += 4)
        *reinterpret_cast<float4*>(&s.dots[group * 4 + i][Keys::column(g, j)]) = {c.sum[i][j], c.sum[i][j + 1],
                                                                                  c.sum[i][j + 2], c.sum[i][j + 3]};
    __syncthreads();
    if (t < Keys::kColumns)
      for (int h = 0; h < heads; ++h) {
        const float dot = s.dots[h][t];
        sum = fmaf(weights.row(row)[head + h] * scale, dot > 0.0f ? dot : 0.0f, sum);
      }
  }
  if (t < Keys::kColumns && key + t <= position) wave.scores[(row - wave.first) * wave.room + key + t] = sum;
}

// ---- the best of them

constexpr int kSelectThreads = 1024, kBins = 2048, kCopies = 4;

// Orders like the score: negative floats have all bits flipped, the others the sign.
__device__ uint32_t rank_of(float score) {
  const uint32_t u = __float_as_uint(score + 0.0f);
  return u & 0x80000000u ? ~u : u | 0x80000000u;
}

struct SelectRoom {
  int bins[kBins][kCopies];  // lanes add to different copies: most scores share few bins
  int warps[kSelectThreads / 32];
  uint32_t digit;
  int left;
};

// The sum of v over the threads before this one, and over all. Begins with a barrier.
__device__ int sum_before(int v, int* warps, int& all) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int sum = v;
#pragma unroll
  for (int by = 1; by < 32; by *= 2) {
    const int below = __shfl_up_sync(~0u, sum, by);
    if (lane >= by) sum += below;
  }
  __syncthreads();
  if (lane == 31) warps[warp] = sum;
  __syncthreads();
  int before = warps[lane];
#pragma unroll
  for (int by = 1; by < 32; by *= 2) {
    const int below = __shfl_up_sync(~0u, before, by);
    if (lane >= by) before += below;
  }
  all = __shfl_sync(~0u, before, 31);
  const int mine = __shfl_sync(~0u, before, warp ? warp - 1 : 0);
  return (warp ? mine : 0) + sum - v;
}

// Of the ranks whose bits above `shift` + `bits` are `prefix`, the digit at `shift` that the left-th largest has;
// `left` becomes its place among those of that digit.
__device__ uint32_t find_digit(SelectRoom& s, const float* scores, int n, uint32_t prefix, int shift, int bits,
                               int& left) {
  const int t = static_cast<int>(threadIdx.x);
  for (int i = t; i < kBins * kCopies; i += kSelectThreads) s.bins[i / kCopies][i % kCopies] = 0;
  __syncthreads();
  const uint32_t mask = (1u << bits) - 1;
#pragma unroll 4
  for (int i = t; i < n; i += kSelectThreads) {
    const uint32_t rank = rank_of(scores[i]);
    if (static_cast<uint64_t>(rank) >> (shift + bits) == prefix)
      atomicAdd(&s.bins[rank >> shift & mask][t % kCopies], 1);
  }
  __syncthreads();
  // Thread t has the bins that are 2t and 2t + 1 from the highest.
  const int high = kBins - 1 - 2 * t, low = high - 1;
  int in_high = 0, in_low = 0, all;
#pragma unroll
  for (int i = 0; i < kCopies; ++i) in_high += s.bins[high][i], in_low += s.bins[low][i];
  const int above = sum_before(in_high + in_low, s.warps, all);
  if (above < left && left <= above + in_high) s.digit = static_cast<uint32_t>(high), s.left = left - above;
  if (above + in_high < left && left <= above + in_high + in_low)
    s.digit = static_cast<uint32_t>(low), s.left = left - above - in_high;
  __syncthreads();
  left = s.left;
  return prefix << bits | s.digit;
}

// top_keys of kernels/top_keys.h. A block: a row. A thread: every 1024th score; the threshold's bits from the highest
// down, then all scores in order.
__global__ void __launch_bounds__(kSelectThreads)
    select_keys(LatentHeads m, DeviceBatch batch, int first, IndexWave wave, Mat<int32_t> picked) {
  auto& s = simt::shared<SelectRoom>();
  const int row = wave.first + static_cast<int>(blockIdx.x), n = batch.positions[first + row] + 1;
  if (!picks(m, n - 1)) return;
  const float* scores = wave.scores + (row - wave.first) * wave.room;
  int ties = m.top_k;  // of rank `last` that are taken
  uint32_t last = find_digit(s, scores, n, 0, 21, 11, ties);
  last = find_digit(s, scores, n, last, 10, 11, ties);
  last = find_digit(s, scores, n, last, 0, 10, ties);

  int taken = 0, equal = 0;
  for (int begin = 0; begin < n && taken < m.top_k; begin += kSelectThreads) {
    const int i = begin + static_cast<int>(threadIdx.x);
    const uint32_t rank = i < n ? rank_of(scores[i]) : 0;
    const bool above = i < n && rank > last, is_tie = i < n && rank == last;
    int all;
    const int before = sum_before(above << 16 | static_cast<int>(is_tie), s.warps, all);
    const int ties_before = equal + (before & 0xffff), ties_taken = smaller_of(ties_before, ties);
    if (above || (is_tie && ties_before < ties))
      picked.row(row)[taken - smaller_of(equal, ties) + (before >> 16) + ties_taken] = i;
    const int ties_now = equal + (all & 0xffff);
    taken += (all >> 16) + smaller_of(ties_now, ties) - smaller_of(equal, ties);
    equal = ties_now;
  }
}

}  // namespace

// As many rows at a time as there is room for their scores.
void CudaDevice::pick(const LatentLayer& l, RowRange rows, const Mat<float>& q, const Mat<bf16>& q16,
                      const Mat<float>& weights, const Mat<int32_t>& picked) {
  if (!rows.count) return;
  const LatentHeads& m = l.heads;
  const float scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(m.index_heads) * m.index_dim));
  simt::launch(static_cast<unsigned>(rows.count), kChainThreads, 0, stream_, round_index_queries, m, batch_, rows.first,
               q, q16);
  const LatentIndexRoom& room = scratch_.latent.index;
  for (IndexWave wave{.scores = room.scores}; wave.first < rows.count; wave.first += wave.rows) {
    wave.room = 0;
    for (wave.rows = 0; wave.first + wave.rows < rows.count; ++wave.rows) {
      const int position = host_batch_->positions[rows.first + wave.first + wave.rows];
      const int64_t most = std::max(wave.room, picks(m, position) ? round_up(position + 1, Keys::kColumns) : 0);
      if (wave.rows && (wave.rows + 1) * most > room.scores_count) break;
      wave.room = most;
    }
    if (!wave.room) continue;
    simt::launch(dim3(static_cast<unsigned>(wave.room / Keys::kColumns), static_cast<unsigned>(wave.rows)),
                 kChainThreads, sizeof(ScoreRoom), stream_, score_keys, l, batch_, rows.first, wave, q16, weights,
                 scale);
    simt::launch(static_cast<unsigned>(wave.rows), kSelectThreads, 0, stream_, select_keys, m, batch_, rows.first, wave,
                 picked);
  }
}

}  // namespace kt::SIMT_TABLE
