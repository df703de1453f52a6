// Latent attention in expanded form (runtime/model/mixers/mla.cpp), one head after the other: the head's queries, then
// span by span its keys and values out of the cached latents, and what the queries make of them. Nothing expanded
// outlives the block of rows.

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "kernels/cpu/latent.h"

namespace kt {
namespace {

constexpr int kLeastPartRows = 256;

// One call: rows of one sequence.
struct Expanding {
  const KernelContext& k;
  const LatentLayer& l;
  const Batch& batch;
  RowRange rows;
  Mat<bf16> q_latent, out;

  const LatentHeads& m = l.heads;
  const Ops& ops = k.ops;

  int position(int row) const { return batch.positions[rows.first + row]; }
  const bf16* page(int position) const {
    return l.pages.page(batch.blocks_of(batch.slices[batch.slice_of[rows.first]])[position / kKvBlock]);
  }
};

// Rows [first, first + rows) of a call, of one head: what a thread does at a time.
struct HeadPart {
  int head, first, rows;
};

// A thread's own memory for that.
struct HeadSlot {
  bf16* key_up;         // the head's key projection as a matrix, (nope_dim, kv_rank)
  bf16* queries;        // (rows, head_dim), rotated
  bf16* expanded;       // keys (kKvSpan, head_dim), then values (kKvSpan, value_dim) of a span
  bf16 *keys, *values;  // the same as matrices: (kKvSpan, head_dim) and (value_dim, kKvSpan)
  float* scores;        // of a run and a span; and products on their way to bf16
  bf16* weights;        // softmax of the scores
  float* sums;          // (rows, value_dim) of the spans so far, not divided
  float* span_sums;     // of a run and a span
  SoftmaxState *states, *span_states;
};

HeadSlot lay_out(Layout& layout, const LatentHeads& m, int rows) {
  const int64_t widest = std::max(m.head_dim(), m.value_dim), page = static_cast<int64_t>(kKvBlock) * widest,
                run = static_cast<int64_t>(kRunQueries) * std::max<int64_t>(kKvSpan, m.head_dim());
  return {.key_up = layout.array<bf16>(static_cast<int64_t>(m.nope_dim) * m.kv_rank),
          .queries = layout.array<bf16>(static_cast<int64_t>(rows) * m.head_dim()),
          .expanded = layout.array<bf16>(kKvSpan * widest),
          .keys = layout.array<bf16>(static_cast<int64_t>(kKvSpan) * m.head_dim()),
          .values = layout.array<bf16>(static_cast<int64_t>(kKvSpan) * m.value_dim),
          .scores = layout.array<float>(std::max(run, page)),
          .weights = layout.array<bf16>(static_cast<int64_t>(kRunQueries) * kKvSpan),
          .sums = layout.array<float>(static_cast<int64_t>(rows) * m.value_dim),
          .span_sums = layout.array<float>(static_cast<int64_t>(kRunQueries) * m.value_dim),
          .states = layout.array<SoftmaxState>(rows),
          .span_states = layout.array<SoftmaxState>(kRunQueries)};
}

// Loading keeps the transpose, which the absorbed form multiplies with.
void unpack_key_up(const Expanding& e, int head, const HeadSlot& s) {
  const PackedMatrix& w = e.l.key_up[head];
  const auto* from = reinterpret_cast<const bf16*>(w.data);
  const int64_t tiles = ceil_div(e.m.kv_rank, kTileK);
  for (int o = 0; o < w.n; o += kPanel)
    for (int i = 0; i < w.k; i += kTileK, from += kPanel * kTileK)
      for (int r = 0; r < kPanel; ++r)
        for (int c = 0; c < kTileK; ++c) {
          const int output = i + c, input = o + r;
          s.key_up[(output / kPanel * tiles + input / kTileK) * kPanel * kTileK + input % kTileK / 2 * kTileK +
                   output % kPanel * 2 + input % 2] = from[c / 2 * kTileK + 2 * r + c % 2];
        }
}

void project_queries(const Expanding& e, const HeadPart& part, const HeadSlot& s) {
  const LatentHeads& m = e.m;
  PackedMatrix q_b = *e.l.q_b;
  q_b.n = m.head_dim();
  q_b.data = e.l.q_b->panel(part.head * q_b.panels());
  for (int first = 0; first < part.rows; first += kRunQueries) {
    const int count = std::min(kRunQueries, part.rows - first);
    e.ops.matmul({.data = e.q_latent.row(part.first + first), .stride = e.q_latent.ld, .count = count}, q_b, 0,
                 q_b.panels(), s.scores, m.head_dim());
    for (int i = 0; i < count; ++i) {
      float* q = s.scores + static_cast<int64_t>(i) * m.head_dim();
      const int row = e.rows.first + part.first + first + i;
      e.ops.rope_pairs(q + m.nope_dim, e.batch.cosines_of(row), e.batch.sines_of(row), e.batch.half());
      to_bf16_row(e.ops, q, m.head_dim(), s.queries + static_cast<int64_t>(first + i) * m.head_dim());
    }
  }
}

// Positions [start, start + count) of the sequence.
struct Span {
  int start, count;
};

// out[i] = bf16(W latent_i), `columns` from one to the next.
void project_latents(const Expanding& e, const Span& span, const PackedMatrix& w, const HeadSlot& s, bf16* out,
                     int64_t columns) {
  for (int at = 0; at < span.count; at += kKvBlock) {
    const int count = std::min(kKvBlock, span.count - at);
    e.ops.matmul({.data = e.page(span.start + at), .stride = e.m.cached_dim(), .count = count}, w, 0, w.panels(),
                 s.scores, w.n);
    for (int i = 0; i < count; ++i)
      to_bf16_row(e.ops, s.scores + static_cast<int64_t>(i) * w.n, w.n, out + (at + i) * columns);
  }
}

void expand(const Expanding& e, int head, const Span& span, const HeadSlot& s) {
  const LatentHeads& m = e.m;
  const PackedMatrix key_up{.n = m.nope_dim, .k = m.kv_rank, .data = reinterpret_cast<const std::byte*>(s.key_up)};
  const bf16* rows[kKvSpan];
  const auto place_rows = [&](int64_t columns) {
    for (int i = 0; i < span.count; ++i) rows[i] = s.expanded + i * columns;
  };
  project_latents(e, span, key_up, s, s.expanded, m.head_dim());
  for (int i = 0; i < span.count; ++i) {
    const int position = span.start + i;
    const bf16* cached = e.page(position) + static_cast<int64_t>(position % kKvBlock) * m.cached_dim();
    std::memcpy(s.expanded + static_cast<int64_t>(i) * m.head_dim() + m.nope_dim, cached + m.kv_rank,
                static_cast<size_t>(m.rope_dim) * sizeof(bf16));
  }
  place_rows(m.head_dim());
  e.ops.pack_rows(rows, span.count, m.head_dim(), s.keys);

  project_latents(e, span, e.l.value_up[head], s, s.expanded, m.value_dim);
  place_rows(m.value_dim);
  e.ops.pack_columns(rows, span.count, m.value_dim, s.values);
}

// Adds what rows [first, first + count) of the part see of a span.
void attend_run(const Expanding& e, const HeadPart& part, int first, int count, const Span& span, const HeadSlot& s) {
  const LatentHeads& m = e.m;
  const int position = e.position(part.first + first);
  const int seen = std::min(span.count, position + count - span.start);  // by the last of them
  if (seen <= 0) return;
  const PackedMatrix keys{.n = span.count, .k = m.head_dim(), .data = reinterpret_cast<const std::byte*>(s.keys)};
  const PackedMatrix values{.n = m.value_dim, .k = span.count, .data = reinterpret_cast<const std::byte*>(s.values)};
  const Rows queries{
      .data = s.queries + static_cast<int64_t>(first) * m.head_dim(), .stride = m.head_dim(), .count = count};
  SoftmaxState* states = span.start ? s.span_states : s.states + first;
  float* sums = span.start ? s.span_sums : s.sums + static_cast<int64_t>(first) * m.value_dim;

  e.ops.matmul(queries, keys, 0, static_cast<int>(ceil_div(seen, kPanel)), s.scores, kKvSpan);
  for (int i = 0; i < count; ++i) {
    const int64_t at = static_cast<int64_t>(i) * kKvSpan;
    const int mine = std::clamp(position + i + 1 - span.start, 0, seen);
    states[i] = e.ops.softmax_row(s.scores + at, m.scale, mine, span.count, s.weights + at);
  }
  e.ops.matmul({.data = s.weights, .stride = kKvSpan, .count = count}, values, 0, values.panels(), sums, m.value_dim);
  if (!span.start) return;
  for (int i = 0; i < count; ++i)
    e.ops.merge(s.states[first + i], s.sums + static_cast<int64_t>(first + i) * m.value_dim, states[i],
                sums + static_cast<int64_t>(i) * m.value_dim, m.value_dim);
}

void attend_head(const Expanding& e, const HeadPart& part, const HeadSlot& s) {
  const int64_t n = e.m.value_dim;
  unpack_key_up(e, part.head, s);
  project_queries(e, part, s);
  const int keys = e.position(part.first + part.rows - 1) + 1;
  for (int start = 0; start < keys; start += kKvSpan) {
    const Span span{start, std::min(kKvSpan, keys - start)};
    expand(e, part.head, span, s);
    for (int first = 0; first < part.rows; first += kRunQueries)
      attend_run(e, part, first, std::min(kRunQueries, part.rows - first), span, s);
  }
  for (int64_t r = 0; r < part.rows; ++r) {
    float* sums = s.sums + r * n;
    for (int64_t i = 0; i < n; ++i) sums[i] = sums[i] / s.states[r].sum;
    to_bf16_row(e.ops, sums, n, e.out.row(part.first + r) + part.head * n);
  }
}

// Fewer heads than threads share the rows of a head, at the price of expanding its keys more than once.
int part_rows(const Expanding& e) {
  int rows = e.rows.count;
  while (rows >= 2 * kLeastPartRows && e.m.heads * ceil_div(e.rows.count, rows) < e.k.pool.size())
    rows = static_cast<int>(ceil_div(rows, 2));
  return rows;
}

}  // namespace

size_t head_slot_bytes(const LatentHeads& m, int rows) {
  Layout layout;
  lay_out(layout, m, rows);
  return layout.bytes();
}

void CpuDevice::attend_expanded(const LatentLayer& l, RowRange range, const Mat<bf16>& q_latent, const Mat<bf16>& out) {
  const Expanding e{k_, l, *batch_, range, q_latent, out};
  const int rows = part_rows(e), parts = static_cast<int>(ceil_div(range.count, rows));
  run_slots(k_.pool, static_cast<int64_t>(parts) * l.heads.heads, [&](int64_t i, int64_t slot) {
    const int head = static_cast<int>(i % l.heads.heads);
    const int first = (parts - 1 - static_cast<int>(i / l.heads.heads)) * rows;  // those with the most keys come first
    Layout layout(scratch_.latent.slots + static_cast<size_t>(slot) * scratch_.latent.slot_bytes);
    attend_head(e, {head, first, std::min(rows, range.count - first)}, lay_out(layout, l.heads, rows));
  });
}

}  // namespace kt
