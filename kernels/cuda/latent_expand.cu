// Latent attention in expanded form (runtime/model/mixers/mla.cpp), some heads at a time: their queries, then some
// spans at a time their keys and values out of the cached latents, and what the queries make of them.

#include <algorithm>

#include "kernels/cuda/latent.h"
#include "kernels/cuda/latent_spans.h"

namespace kt::SIMT_TABLE {
namespace {

// Some heads of one call.
struct Expanding {
  LatentHeads m;
  Pages pages;
  DeviceBatch batch;
  RowRange rows;
  HeadMatrices key_up, value_up;
  int head = 0, heads = 0;  // of the group
  LatentExpandedRoom room;
  Mat<bf16> out;

  __host__ __device__ constexpr int up_rows() const { return m.nope_dim + m.value_dim; }
  __host__ __device__ constexpr int expanded_columns() const { return m.head_dim() + m.value_dim; }
  __device__ bf16* up(int h) const { return room.up + static_cast<int64_t>(h) * up_rows() * m.kv_rank; }
  __device__ int64_t query(int h, int row) const { return static_cast<int64_t>(h) * rows.count + row; }
};
// Spans of keys that are expanded at a time.
struct Chunk {
  int start = 0, keys = 0;  // positions

  __device__ bf16* row(const Expanding& e, int h, int i) const {
    return e.room.expanded + (static_cast<int64_t>(h) * keys + i) * e.expanded_columns();
  }
};

// A block: 16 inputs (latents) of a head's key and value projections as rows, keys' first. A thread: a word at a time.
__global__ void __launch_bounds__(kChainThreads) unpack_up(Expanding e) {
  const LatentHeads& m = e.m;
  const int h = static_cast<int>(blockIdx.y), panel = static_cast<int>(blockIdx.x), head = e.head + h;
  bf16* to = e.up(h);
  // The key's is stored transposed: its outputs are these inputs.
  for (int i = threadIdx.x; i < kPanel * m.nope_dim / 2; i += kChainThreads) {
    const int pair = i / kPanel, latent = panel * kPanel + i % kPanel;
    const auto* tile = reinterpret_cast<const uint32_t*>(e.key_up.tile(head, panel, 2 * pair / kTileK));
    const uint32_t both = tile[pair % (kTileK / 2) * kPanel + i % kPanel];
    to[static_cast<int64_t>(2 * pair) * m.kv_rank + latent] = static_cast<bf16>(both);
    to[static_cast<int64_t>(2 * pair + 1) * m.kv_rank + latent] = static_cast<bf16>(both >> 16);
  }
  to += static_cast<int64_t>(m.nope_dim) * m.kv_rank;
  for (int i = threadIdx.x; i < kPanel / 2 * m.value_dim; i += kChainThreads) {
    const int output = i / (kPanel / 2), latent = panel * kPanel + 2 * (i % (kPanel / 2));
    const auto* tile = reinterpret_cast<const uint32_t*>(e.value_up.tile(head, output / kPanel, latent / kTileK));
    *reinterpret_cast<uint32_t*>(to + static_cast<int64_t>(output) * m.kv_rank + latent) =
        tile[latent % kTileK / 2 * kPanel + output % kPanel];
  }
}

// A block: a row's queries of the group, rotated and rounded. A thread: every 256th element.
__global__ void __launch_bounds__(kChainThreads) round_queries(Expanding e) {
  const LatentHeads& m = e.m;
  const int row = static_cast<int>(blockIdx.x), dim = m.head_dim();
  const int64_t angles = static_cast<int64_t>(e.rows.first + row) * e.batch.half;
  for (int c = threadIdx.x; c < e.heads * dim; c += kChainThreads) {
    const int h = c / dim, i = c % dim;
    const float* q = e.room.q + static_cast<int64_t>(row) * e.heads * dim + h * dim;
    e.room.queries[e.query(h, row) * dim + i] =
        to_bf16(i < m.nope_dim ? q[i]
                               : rotated_pair(q + m.nope_dim, i - m.nope_dim, e.batch.cosines + angles,
                                              e.batch.sines + angles, e.batch.half));
  }
}

// ---- keys and values

constexpr int kExpandGroups = 16, kExpandStages = 4, kExpandKeys = 4 * kChainThreads / kExpandGroups;
static_assert(kExpandKeys == kKvBlock);  // of one page
using Up = RowWeights<8, kExpandGroups>;

struct ExpandStage {
  alignas(16) bf16 w[kTileK * Up::kColumns];
  alignas(16) bf16 x[kTileK * kExpandKeys];
};

// A block: 128 columns of a head's keys and values for a page of latents. A thread: 4 keys, 8 columns. Blocks of the
// first columns copy the rotated part.
__global__ void __launch_bounds__(kChainThreads) expand_keys(Expanding e, Chunk chunk) {
  auto* stages = simt::dynamic_shared<ExpandStage>();
  const LatentHeads& m = e.m;
  const int t = static_cast<int>(threadIdx.x), group = t / kExpandGroups, g = t % kExpandGroups,
            first = static_cast<int>(blockIdx.x) * Up::kColumns, at = static_cast<int>(blockIdx.y) * kKvBlock,
            h = static_cast<int>(blockIdx.z), keys = smaller_of(kKvBlock, chunk.keys - at),
            columns = e.up_rows() - first;
  const bf16* page = pages_of(m, e.pages, e.batch, e.rows.first).row(chunk.start + at);
  const bf16* w = e.up(h) + static_cast<int64_t>(first) * m.kv_rank;
  ChainSums<4, 8> c;
  c.clear();
  in_stages<kExpandStages>(
      m.kv_rank / kTileK,
      [&](int tile, int stage) {
        copy_tile<Up::kColumns, true>(stages[stage].w, columns,
                                      [&](int i) { return w + static_cast<int64_t>(i) * m.kv_rank + tile * kTileK; });
        copy_tile<kKvBlock, false>(stages[stage].x, keys,
                                   [&](int i) { return page + i * m.cached_dim() + tile * kTileK; });
      },
      [&](int, int stage) {
        c.add(stages[stage].x + group * 4 * kTileK, kTileK, Up{stages[stage].w, g});
      });
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (group * 4 + i >= keys) continue;
    bf16* to = chunk.row(e, h, at + group * 4 + i);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const int column = first + Up::column(g, j);
      if (column < e.up_rows()) to[column < m.nope_dim ? column : column + m.rope_dim] = to_bf16(c.sum[i][j]);
    }
  }
  if (first == 0)
    for (int i = t; i < keys * m.rope_dim; i += kChainThreads) {
      const int key = i / m.rope_dim, column = i % m.rope_dim;
      chunk.row(e, h, at + key)[m.nope_dim + column] = page[key * m.cached_dim() + m.kv_rank + column];
    }
}

// ---- attending

constexpr int kRows = SpanRoomOf<4>::kQueries;

struct RowsRoom : SpanRoomOf<4> {
  SoftmaxState merged[kRows];
  MergeWeights weights[kRows];
  bool adds[kRows];
};

// A block: 16 rows of a head, span by span of a chunk. A thread: 4 rows, 8 of a span's scores, then 2 columns of the
// values, which it adds to those of the spans before.
__global__ void __launch_bounds__(kChainThreads) attend_rows(Expanding e, Chunk chunk) {
  auto& s = *simt::dynamic_shared<RowsRoom>();
  const LatentHeads& m = e.m;
  // Those with the most keys come first.
  const int t = static_cast<int>(threadIdx.x), h = static_cast<int>(blockIdx.x),
            row = static_cast<int>(gridDim.y - 1 - blockIdx.y) * kRows, count = smaller_of(kRows, e.rows.count - row),
            position = e.batch.positions[e.rows.first + row], all = position + count;  // keys that the last row sees
  const int64_t query = e.query(h, row);
  if (all <= chunk.start) return;
  if (t < count && chunk.start) s.merged[t] = e.room.states[query + t];

  for (int start = chunk.start; start < smaller_of(all, chunk.start + chunk.keys); start += kKvSpan) {
    const int seen = smaller_of(kKvSpan, all - start);
    for (int i = t; i < seen; i += kChainThreads) s.keys[i] = chunk.row(e, h, start - chunk.start + i);
    const auto visible = [&](int i) { return smaller_of(larger_of(position + i + 1 - start, 0), seen); };
    const auto merge_states = [&] {
      if (t < count) {
        s.adds[t] = start && s.states[t].sum != 0.0f;
        if (s.adds[t]) s.weights[t] = merge_weights(s.merged[t], s.states[t]);
        if (s.adds[t] || !start) s.merged[t] = start ? s.weights[t].state : s.states[t];
      }
      __syncthreads();
    };
    attend_span<4, 2>(
        s, {m.head_dim(), m.head_dim(), m.value_dim, m.scale},
        {e.room.queries + query * m.head_dim(), m.head_dim(), count}, seen, visible, merge_states,
        [&](int i, int column, const float(&sums)[2]) {
          auto& mine = *reinterpret_cast<float2*>(e.room.sums + (query + i) * m.value_dim + column);
          float2 v{sums[0], sums[1]};
          if (start) {
            const MergeWeights& w = s.weights[i];
            const float2 before = mine;
            v = s.adds[i] ? float2{fmaf(v.x, w.from, before.x * w.kept), fmaf(v.y, w.from, before.y * w.kept)} : before;
          }
          mine = v;
          if (start + kKvSpan < all) return;
          const float sum = s.merged[i].sum;
          bf16* to = e.out.row(row + i) + static_cast<int64_t>(e.head + h) * m.value_dim + column;
          *reinterpret_cast<uint32_t*>(to) = two_bf16(v.x / sum, v.y / sum);
        });
  }
  if (t < count) e.room.states[query + t] = s.merged[t];
}

}  // namespace

// Queries come from the same product as elsewhere; q_b's format has no 8-bit activations.
void CudaDevice::attend_expanded(const LatentLayer& l, RowRange rows, const Mat<bf16>& q_latent, const Mat<bf16>& out) {
  if (!rows.count) return;
  const LatentHeads& m = l.heads;
  Expanding e{m, l.pages, batch_, rows, head_matrices(l.key_up, m.heads), head_matrices(l.value_up, m.heads)};
  e.room = scratch_.latent.expanded;
  e.out = out;
  const int at_once = expanded_heads(m, rows.count), spans = expanded_spans(at_once);
  const int keys = host_batch_->positions[rows.first + rows.count - 1] + 1;
  for (; e.head < m.heads; e.head += e.heads) {
    e.heads = std::min(at_once, m.heads - e.head);
    const auto heads = static_cast<unsigned>(e.heads);
    PackedMatrix q_b = *l.q_b;
    q_b.data = l.q_b->panel(e.head * m.head_dim() / kPanel);
    q_b.n = e.heads * m.head_dim();
    linear(q_latent.top(rows.count), {{q_b, {e.room.q, q_b.n, rows.count, q_b.n}}});
    simt::launch(static_cast<unsigned>(rows.count), kChainThreads, 0, stream_, round_queries, e);
    simt::launch(dim3(static_cast<unsigned>(m.kv_rank / kPanel), heads), kChainThreads, 0, stream_, unpack_up, e);
    for (Chunk chunk; chunk.start < keys; chunk.start += chunk.keys) {
      chunk.keys = std::min(spans * kKvSpan, keys - chunk.start);
      simt::launch(dim3(static_cast<unsigned>(ceil_div(e.up_rows(), Up::kColumns)),
                        static_cast<unsigned>(ceil_div(chunk.keys, kKvBlock)), heads),
                   kChainThreads, kExpandStages * sizeof(ExpandStage), stream_, expand_keys, e, chunk);
      simt::launch(dim3(heads, static_cast<unsigned>(ceil_div(rows.count, kRows))), kChainThreads, sizeof(RowsRoom),
                   stream_, attend_rows, e, chunk);
    }
  }
}

}  // namespace kt::SIMT_TABLE
