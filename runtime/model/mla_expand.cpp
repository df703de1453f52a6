// Latent attention in expanded form, one head after the other: the head's queries, then span by span its keys and
// values out of the cached latents, and what the queries make of them. Nothing expanded outlives the block of rows.

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "runtime/model/mla_block.h"

namespace kt {
namespace {

constexpr int kLeastPartRows = 256;

// Rows [first, first + rows) of a block, of one head: what a thread does at a time.
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
  size_t bytes;
};

HeadSlot lay_out(std::byte* memory, const MlaSpec& m, int rows) {
  HeadSlot s{};
  const auto take = [&](auto*& to, int64_t count) {
    to = reinterpret_cast<std::remove_reference_t<decltype(to)>>(reinterpret_cast<uintptr_t>(memory) + s.bytes);
    s.bytes += static_cast<size_t>(round_up(count * static_cast<int64_t>(sizeof *to), 64));
  };
  const int64_t widest = std::max(m.head_dim(), m.value_dim), page = static_cast<int64_t>(kKvBlock) * widest,
                run = static_cast<int64_t>(kRunQueries) * std::max<int64_t>(kKvSpan, m.head_dim());
  take(s.key_up, static_cast<int64_t>(m.nope_dim) * m.kv_rank);
  take(s.queries, static_cast<int64_t>(rows) * m.head_dim());
  take(s.expanded, kKvSpan * widest);
  take(s.keys, static_cast<int64_t>(kKvSpan) * m.head_dim());
  take(s.values, static_cast<int64_t>(kKvSpan) * m.value_dim);
  take(s.scores, std::max(run, page));
  take(s.weights, static_cast<int64_t>(kRunQueries) * kKvSpan);
  take(s.sums, static_cast<int64_t>(rows) * m.value_dim);
  take(s.span_sums, static_cast<int64_t>(kRunQueries) * m.value_dim);
  take(s.states, rows);
  take(s.span_states, kRunQueries);
  return s;
}

// Loading keeps the transpose, which the absorbed form multiplies with.
void unpack_key_up(const MlaBlock& b, int head, const HeadSlot& s) {
  const PackedMatrix& w = b.w.key_up[head];
  const auto* from = reinterpret_cast<const bf16*>(w.data);
  const int64_t tiles = ceil_div(b.m.kv_rank, kTileK);
  for (int o = 0; o < w.n; o += kPanel)
    for (int i = 0; i < w.k; i += kTileK, from += kPanel * kTileK)
      for (int r = 0; r < kPanel; ++r)
        for (int c = 0; c < kTileK; ++c) {
          const int output = i + c, input = o + r;
          s.key_up[(output / kPanel * tiles + input / kTileK) * kPanel * kTileK + input % kTileK / 2 * kTileK +
                   output % kPanel * 2 + input % 2] = from[c / 2 * kTileK + 2 * r + c % 2];
        }
}

void project_queries(const MlaBlock& b, const HeadPart& part, const HeadSlot& s) {
  const MlaSpec& m = b.m;
  PackedMatrix q_b = b.w.q_b;
  q_b.n = m.head_dim();
  q_b.data = b.w.q_b.panel(part.head * q_b.panels());
  for (int first = 0; first < part.rows; first += kRunQueries) {
    const int count = std::min(kRunQueries, part.rows - first);
    const bf16* latents = b.room.q_latent.as<bf16>() + static_cast<int64_t>(part.first + first) * m.q_rank;
    b.ops.matmul({.data = latents, .stride = m.q_rank, .count = count}, q_b, 0, q_b.panels(), s.scores, m.head_dim());
    for (int i = 0; i < count; ++i) {
      float* q = s.scores + static_cast<int64_t>(i) * m.head_dim();
      const int row = part.first + first + i;
      b.ops.rope_pairs(q + m.nope_dim, b.cosines(row), b.sines(row), m.rope.dims / 2);
      to_bf16_row(b.ops, q, m.head_dim(), s.queries + static_cast<int64_t>(first + i) * m.head_dim());
    }
  }
}

// Positions [start, start + count) of the sequence.
struct Span {
  int start, count;
};

// out[i] = bf16(W latent_i), `columns` from one to the next.
void project_latents(const MlaBlock& b, const Span& span, const PackedMatrix& w, const HeadSlot& s, bf16* out,
                     int64_t columns) {
  for (int at = 0; at < span.count; at += kKvBlock) {
    const int count = std::min(kKvBlock, span.count - at);
    const bf16* page = b.page(b.tokens[0].blocks[(span.start + at) / kKvBlock]);
    b.ops.matmul({.data = page, .stride = b.m.cached_dim(), .count = count}, w, 0, w.panels(), s.scores, w.n);
    for (int i = 0; i < count; ++i)
      to_bf16_row(b.ops, s.scores + static_cast<int64_t>(i) * w.n, w.n, out + (at + i) * columns);
  }
}

void expand(const MlaBlock& b, int head, const Span& span, const HeadSlot& s) {
  const MlaSpec& m = b.m;
  const PackedMatrix key_up{.n = m.nope_dim, .k = m.kv_rank, .data = reinterpret_cast<const std::byte*>(s.key_up)};
  const bf16* rows[kKvSpan];
  const auto place_rows = [&](int64_t columns) {
    for (int i = 0; i < span.count; ++i) rows[i] = s.expanded + i * columns;
  };
  project_latents(b, span, key_up, s, s.expanded, m.head_dim());
  for (int i = 0; i < span.count; ++i) {
    const int position = span.start + i;
    const bf16* cached =
        b.page(b.tokens[0].blocks[position / kKvBlock]) + static_cast<int64_t>(position % kKvBlock) * m.cached_dim();
    std::memcpy(s.expanded + static_cast<int64_t>(i) * m.head_dim() + m.nope_dim, cached + m.kv_rank,
                static_cast<size_t>(m.rope.dims) * sizeof(bf16));
  }
  place_rows(m.head_dim());
  b.ops.pack_rows(rows, span.count, m.head_dim(), s.keys);

  project_latents(b, span, b.w.value_up[head], s, s.expanded, m.value_dim);
  place_rows(m.value_dim);
  b.ops.pack_columns(rows, span.count, m.value_dim, s.values);
}

// Adds what rows [first, first + count) of the part see of a span.
void attend_run(const MlaBlock& b, const HeadPart& part, int first, int count, const Span& span, const HeadSlot& s) {
  const MlaSpec& m = b.m;
  const int position = b.tokens[part.first + first].position;
  const int seen = std::min(span.count, position + count - span.start);  // by the last of them
  if (seen <= 0) return;
  const PackedMatrix keys{.n = span.count, .k = m.head_dim(), .data = reinterpret_cast<const std::byte*>(s.keys)};
  const PackedMatrix values{.n = m.value_dim, .k = span.count, .data = reinterpret_cast<const std::byte*>(s.values)};
  const Rows queries{
      .data = s.queries + static_cast<int64_t>(first) * m.head_dim(), .stride = m.head_dim(), .count = count};
  SoftmaxState* states = span.start ? s.span_states : s.states + first;
  float* sums = span.start ? s.span_sums : s.sums + static_cast<int64_t>(first) * m.value_dim;

  b.ops.matmul(queries, keys, 0, static_cast<int>(ceil_div(seen, kPanel)), s.scores, kKvSpan);
  for (int i = 0; i < count; ++i) {
    const int64_t at = static_cast<int64_t>(i) * kKvSpan;
    const int mine = std::clamp(position + i + 1 - span.start, 0, seen);
    states[i] = b.ops.softmax_row(s.scores + at, m.scale, mine, span.count, s.weights + at);
  }
  b.ops.matmul({.data = s.weights, .stride = kKvSpan, .count = count}, values, 0, values.panels(), sums, m.value_dim);
  if (!span.start) return;
  for (int i = 0; i < count; ++i)
    b.ops.merge(s.states[first + i], s.sums + static_cast<int64_t>(first + i) * m.value_dim, states[i],
                sums + static_cast<int64_t>(i) * m.value_dim, m.value_dim);
}

void attend_head(const MlaBlock& b, const HeadPart& part, const HeadSlot& s) {
  const int64_t n = b.m.value_dim;
  unpack_key_up(b, part.head, s);
  project_queries(b, part, s);
  const int keys = b.tokens[part.first + part.rows - 1].position + 1;
  for (int start = 0; start < keys; start += kKvSpan) {
    const Span span{start, std::min(kKvSpan, keys - start)};
    expand(b, part.head, span, s);
    for (int first = 0; first < part.rows; first += kRunQueries)
      attend_run(b, part, first, std::min(kRunQueries, part.rows - first), span, s);
  }
  for (int64_t r = 0; r < part.rows; ++r) {
    float* sums = s.sums + r * n;
    for (int64_t i = 0; i < n; ++i) sums[i] = sums[i] / s.states[r].sum;
    to_bf16_row(b.ops, sums, n, b.room.out.as<bf16>() + ((part.first + r) * b.heads + part.head) * n);
  }
}

// Fewer heads than threads share the rows of a head, at the price of expanding its keys more than once.
int part_rows(const MlaBlock& b) {
  int rows = b.rows;
  while (rows >= 2 * kLeastPartRows && b.heads * ceil_div(b.rows, rows) < b.t.kernels.pool.size())
    rows = static_cast<int>(ceil_div(rows, 2));
  return rows;
}

}  // namespace

size_t head_slot_bytes(const MlaSpec& m, int rows) { return lay_out(nullptr, m, rows).bytes; }

void attend_expanded(const MlaBlock& b) {
  const int rows = part_rows(b), parts = static_cast<int>(ceil_div(b.rows, rows));
  run_slots(b.t.kernels.pool, static_cast<int64_t>(parts) * b.heads, [&](int64_t i, int64_t slot) {
    const int first = (parts - 1 - static_cast<int>(i / b.heads)) * rows;  // those with the most keys come first
    attend_head(b, {static_cast<int>(i % b.heads), first, std::min(rows, b.rows - first)},
                lay_out(b.room.slots[static_cast<size_t>(slot)].bytes(), b.m, rows));
  });
}

}  // namespace kt
