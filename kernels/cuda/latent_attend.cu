// Attention over cached latents: blocks over (row, heads, span), which share a span's latents between heads, then the
// merging of spans. As many rows and spans at a time as there is room for.

#include <algorithm>

#include "kernels/cuda/latent.h"
#include "kernels/cuda/latent_spans.h"

namespace kt::SIMT_TABLE {
namespace {

// One call.
struct Attending {
  LatentHeads m;
  Pages pages;
  DeviceBatch batch;
  int first = 0;  // row of the batch
  Mat<bf16> query, sums;
  Mat<int32_t> picked;
  SoftmaxState *states = nullptr, *carried_states = nullptr;
  float *values = nullptr, *carried = nullptr;
};
// Some rows of it, and spans of each.
struct Wave {
  int first = 0, rows = 0, first_span = 0, spans = 0;

  __device__ int64_t part(int row, int span, int head, int heads) const {  // among states and values
    return (static_cast<int64_t>(row - first) * spans + span - first_span) * heads + head;
  }
};

constexpr __device__ __host__ int visible_keys(const LatentHeads& m, int position) {
  return picks(m, position) ? m.top_k : position + 1;
}

// A block: 4 R heads of a row and a span. A thread: R heads, 8 of the span's scores, then 8 columns of their sums.
template <int R>
__global__ void __launch_bounds__(kChainThreads) attend_heads(Attending a, Wave wave) {
  auto& s = *simt::dynamic_shared<SpanRoomOf<R>>();
  const LatentHeads& m = a.m;
  const int head = static_cast<int>(blockIdx.x) * SpanRoomOf<R>::kQueries,
            span = wave.first_span + static_cast<int>(blockIdx.y), row = wave.first + static_cast<int>(blockIdx.z);
  const int position = a.batch.positions[a.first + row], start = span * kKvSpan,
            seen = smaller_of(kKvSpan, visible_keys(m, position) - start);
  if (seen <= 0) return;

  const SequencePages pages = pages_of(m, a.pages, a.batch, a.first + row);
  const int32_t* picked = picks(m, position) ? a.picked.row(row) + start : nullptr;
  for (int i = threadIdx.x; i < seen; i += kChainThreads) s.keys[i] = pages.row(picked ? picked[i] : start + i);
  const SpanQueries queries{a.query.row(row) + static_cast<int64_t>(head) * m.cached_dim(), m.cached_dim(),
                            smaller_of(SpanRoomOf<R>::kQueries, m.heads - head)};
  const int64_t part = wave.part(row, span, head, m.heads);
  attend_span<R, 8>(
      s, {m.cached_dim(), 0, m.kv_rank, m.scale}, queries, seen, [&](int) { return seen; },
      [&] {
        if (static_cast<int>(threadIdx.x) < queries.count) a.states[part + threadIdx.x] = s.states[threadIdx.x];
      },
      [&](int i, int column, const float(&sums)[8]) {
        auto* to = reinterpret_cast<float4*>(a.values + (part + i) * m.kv_rank + column);
        to[0] = {sums[0], sums[1], sums[2], sums[3]};
        to[1] = {sums[4], sums[5], sums[6], sums[7]};
      });
}

constexpr int kMergeThreads = 128;

// A block: one query, whose spans it merges in order. A thread: every 128th four columns.
__global__ void __launch_bounds__(kMergeThreads) merge_spans(Attending a, Wave wave) {
  const LatentHeads& m = a.m;
  const int head = static_cast<int>(blockIdx.x), row = wave.first + static_cast<int>(blockIdx.y);
  const int own = static_cast<int>(ceil_div(visible_keys(m, a.batch.positions[a.first + row]), kKvSpan)),
            last = smaller_of(own, wave.first_span + wave.spans);
  if (wave.first_span >= last) return;
  const auto values_of = [&](int span) { return a.values + wave.part(row, span, head, m.heads) * m.kv_rank; };
  const int begin = larger_of(wave.first_span, 1);
  const SoftmaxState start = wave.first_span ? a.carried_states[head] : a.states[wave.part(row, 0, head, m.heads)];
  const float* start_values = wave.first_span ? a.carried + static_cast<int64_t>(head) * m.kv_rank : values_of(0);
  if (wave.first_span) __syncthreads();  // all have read what the first will replace
  for (int c = threadIdx.x * 4; c < m.kv_rank; c += kMergeThreads * 4) {
    SoftmaxState state = start;
    float4 v = *reinterpret_cast<const float4*>(start_values + c);
#pragma unroll 4
    for (int span = begin; span < last; ++span) {
      const SoftmaxState other = a.states[wave.part(row, span, head, m.heads)];
      const float4 b = *reinterpret_cast<const float4*>(values_of(span) + c);
      if (other.sum == 0.0f) continue;
      const MergeWeights w = merge_weights(state, other);
      state = w.state;
      v = {fmaf(b.x, w.from, v.x * w.kept), fmaf(b.y, w.from, v.y * w.kept), fmaf(b.z, w.from, v.z * w.kept),
           fmaf(b.w, w.from, v.w * w.kept)};
    }
    if (last == own) {
      bf16* to = a.sums.row(row) + static_cast<int64_t>(head) * m.kv_rank + c;
      const auto both = [&](float x, float y) { return two_bf16(x / state.sum, y / state.sum); };
      *reinterpret_cast<uint2*>(to) = {both(v.x, v.y), both(v.z, v.w)};
    } else {
      *reinterpret_cast<float4*>(a.carried + static_cast<int64_t>(head) * m.kv_rank + c) = v;
      if (c == 0) a.carried_states[head] = state;
    }
  }
}

// Few blocks: half as many heads in each.
constexpr int64_t kManyBlocks = 128;

template <int R>
void launch_heads(const Attending& a, const Wave& wave, simt::Stream stream) {
  const dim3 grid(static_cast<unsigned>(ceil_div(a.m.heads, SpanRoomOf<R>::kQueries)),
                  static_cast<unsigned>(wave.spans), static_cast<unsigned>(wave.rows));
  simt::launch(grid, kChainThreads, sizeof(SpanRoomOf<R>), stream, attend_heads<R>, a, wave);
}

}  // namespace

void CudaDevice::attend_latents(const LatentLayer& l, RowRange rows, const Mat<bf16>& query, const Mat<int32_t>& picked,
                                const Mat<bf16>& sums) {
  const LatentHeads& m = l.heads;
  const LatentSpanRoom& room = scratch_.latent.spans;
  const Attending a{m,           l.pages,     batch_, rows.first, query, sums, picked, room.states, room.carried_states,
                    room.values, room.carried};
  for (Wave wave; wave.first < rows.count; wave.first += wave.rows) {
    int64_t most = 0;  // spans of a row
    for (wave.rows = 0; wave.first + wave.rows < rows.count; ++wave.rows) {
      const int position = host_batch_->positions[rows.first + wave.first + wave.rows];
      const int64_t spans = std::max(most, ceil_div(visible_keys(m, position), kKvSpan));
      if (wave.rows && (wave.rows + 1) * spans * m.heads > room.parts) break;
      most = spans;
    }
    const int64_t at_once = std::max<int64_t>(1, room.parts / (static_cast<int64_t>(wave.rows) * m.heads));
    for (int64_t span = 0; span < most; span += at_once) {
      wave.first_span = static_cast<int>(span);
      wave.spans = static_cast<int>(std::min(at_once, most - span));
      constexpr int kWide = SpanRoomOf<4>::kQueries;
      if (2 * m.heads > kWide && wave.rows * wave.spans * ceil_div(m.heads, kWide) >= kManyBlocks)
        launch_heads<4>(a, wave, stream_);
      else
        launch_heads<2>(a, wave, stream_);
      simt::launch(dim3(static_cast<unsigned>(m.heads), static_cast<unsigned>(wave.rows)), kMergeThreads, 0, stream_,
                   merge_spans, a, wave);
    }
  }
}

}  // namespace kt::SIMT_TABLE
