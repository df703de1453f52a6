#pragma once

#include "kernels/cuda/arithmetic.h"
#include "kernels/cuda/latent_chains.h"
#include "kernels/ops.h"

// What a block's queries make of one span of keys, latents or expanded ones.

namespace kt::SIMT_TABLE {

inline constexpr int kSpanGroups = 64;  // of columns: with eight columns a thread sees to a whole span

// A block's shared memory, for 4 R queries: thread t has R of them and column group t % kSpanGroups.
template <int R>
struct SpanRoomOf {
  static constexpr int kQueries = R * kChainThreads / kSpanGroups;
  alignas(16) bf16 w[2][kTileK * kKvSpan];   // a tile of keys or values
  alignas(16) bf16 p[kQueries][kKvSpan];     // softmax
  alignas(16) bf16 x[2][kQueries * kTileK];  // a tile of the queries
  const bf16* keys[kKvSpan];                 // where each is, the caller's to fill
  float tops[kChainThreads / 32][R];         // of each warp
  SoftmaxState states[kQueries];
};

// Rows of keys and values, and the queries of a block: `count` of them, `stride` apart.
struct SpanShape {
  int key_dim = 0, values_at = 0, value_dim = 0;
  float scale = 0.0f;
};
struct SpanQueries {
  const bf16* at = nullptr;
  int64_t stride = 0;
  int count = 0;
};

// Query i sees the first visible(i) keys of the span, `seen` is the most of these. Leaves states in s.states, calls
// with_states() in all threads, and hands the values, unnormalised, C columns of a query at a time to
// store(i, column, sums). Begins with a barrier.
template <int R, int C, class Visible, class WithStates, class Store>
__device__ void attend_span(SpanRoomOf<R>& s, const SpanShape& shape, const SpanQueries& q, int seen,
                            const Visible& visible, const WithStates& with_states, const Store& store) {
  constexpr int kWide = kKvSpan / kSpanGroups;
  using Keys = RowWeights<kWide, kSpanGroups>;
  using Values = ColumnWeights<C, kSpanGroups>;
  const int t = static_cast<int>(threadIdx.x), group = t / kSpanGroups, g = t % kSpanGroups;

  ChainSums<R, kWide> scores;
  scores.clear();
  in_stages<2>(
      shape.key_dim / kTileK,
      [&](int tile, int stage) {
        copy_tile<kKvSpan, true>(s.w[stage], seen, [&](int r) { return s.keys[r] + tile * kTileK; });
        copy_tile<SpanRoomOf<R>::kQueries, false>(s.x[stage], q.count,
                                                  [&](int r) { return q.at + r * q.stride + tile * kTileK; });
      },
      [&](int, int stage) {
        scores.add(s.x[stage] + group * R * kTileK, kTileK, Keys{s.w[stage], g});
      });

#pragma unroll
  for (int i = 0; i < R; ++i) {
    const int mine = visible(group * R + i);
    float top = __uint_as_float(0xff800000u);
#pragma unroll
    for (int j = 0; j < kWide; ++j)
      if (Keys::column(g, j) < mine) top = fmaxf(top, scores.sum[i][j] * shape.scale);
#pragma unroll
    for (int m = 16; m; m /= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, m));
    if (t % 32 == 0) s.tops[t / 32][i] = top;
  }
  __syncthreads();
  const auto top_of = [&](int query) {
    return fmaxf(s.tops[query / R * 2][query % R], s.tops[query / R * 2 + 1][query % R]);
  };
#pragma unroll
  for (int i = 0; i < R; ++i) {
    const int mine = visible(group * R + i);
    const float top = top_of(group * R + i);
#pragma unroll
    for (int j = 0; j < kWide; ++j) {
      const int key = Keys::column(g, j);
      s.p[group * R + i][key] = key < mine ? to_bf16(exponential(scores.sum[i][j] * shape.scale - top)) : bf16{0};
    }
  }
  __syncthreads();
  const int tiles = static_cast<int>(ceil_div(seen, kTileK));
  if (const int query = t / 16; query < SpanRoomOf<R>::kQueries) {  // whole warps
    float lane = 0.0f;
    for (int i = t % 16; i < tiles * kTileK; i += 16) lane = lane + to_float(s.p[query][i]);
    const float sum = fold16(lane);
    if (t % 16 == 0) s.states[query] = {top_of(query), sum};
  }
  __syncthreads();
  with_states();

  for (int first = 0; first < shape.value_dim; first += Values::kColumns) {
    constexpr int kChunks = Values::kColumns / 8;  // of a key
    ChainSums<R, C> values;
    values.clear();
    in_stages<2>(
        tiles,
        [&](int tile, int stage) {
#pragma unroll 4
          for (int begin = 0; begin < kTileK * kChunks; begin += kChainThreads) {
            const int id = begin + t, r = id / kChunks, column = id % kChunks * 8, key = tile * kTileK + r;
            const bool use = key < seen && first + column < shape.value_dim;
            simt::copy16(s.w[stage] + r * Values::kColumns + column,
                         s.keys[use ? key : 0] + shape.values_at + (use ? first + column : 0), use);
          }
        },
        [&](int tile, int stage) {
          values.add(&s.p[group * R][tile * kTileK], kKvSpan, Values{s.w[stage], g});
        });
    const int column = first + Values::column(g, 0);
    if (column < shape.value_dim)
#pragma unroll
      for (int i = 0; i < R; ++i)
        if (group * R + i < q.count) store(group * R + i, column, values.sum[i]);
  }
}

// ref's merge of two states: b is added with weight `from`, what was there is kept with weight `kept`.
struct MergeWeights {
  SoftmaxState state;
  float kept, from;
};
__device__ inline MergeWeights merge_weights(const SoftmaxState& a, const SoftmaxState& b) {
  const float top = a.max > b.max ? a.max : b.max;
  const float kept = a.sum == 0.0f ? 0.0f : exponential(a.max - top), from = exponential(b.max - top);
  return {{top, fmaf(b.sum, from, a.sum * kept)}, kept, from};
}

}  // namespace kt::SIMT_TABLE
