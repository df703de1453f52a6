// Attention over cached latents: scores and sums are matrix products whose weights are cached rows, packed as needed.

#include <algorithm>
#include <vector>

#include "runtime/model/mla_block.h"

namespace kt {
namespace {

constexpr int kLeastRunQueries = 16;

// Queries [begin, end) = row * heads + head of the block; either all of one row, whose keys are picked, or of rows of
// one sequence that see all positions up to their own.
struct Run {
  int begin, end;
  const int32_t* blocks;
  const int32_t* picked;  // null: all

  int row(int query, int heads) const { return (begin + query) / heads; }
};

int visible_keys(const MlaBlock& b, int row) { return b.sparse(row) ? b.m.indexer->top_k : b.tokens[row].position + 1; }

// Long runs share packed keys; short ones keep all threads busy.
int run_length(const MlaBlock& b) {
  int64_t spans = 1;
  for (int r = 0; r < b.rows; ++r) spans = std::max<int64_t>(spans, ceil_div(visible_keys(b, r), kKvSpan));
  int length = kRunQueries;
  while (length > kLeastRunQueries && b.rows * b.heads * spans < 2ll * b.t.kernels.pool.size() * length) length /= 2;
  return length;
}

std::vector<Run> cut_runs(const MlaBlock& b) {
  const int length = run_length(b);
  std::vector<Run> runs;
  for (int first = 0, last; first < b.rows; first = last) {
    last = first + 1;
    while (!b.sparse(first) && last < b.rows && b.tokens[last].slice == b.tokens[first].slice && !b.sparse(last))
      ++last;
    for (int q = first * b.heads; q < last * b.heads; q += length)
      runs.push_back({q, std::min(q + length, last * b.heads), b.tokens[first].blocks,
                      b.sparse(first) ? b.picked(first) : nullptr});
  }
  return runs;
}

// Softmax states and unnormalised sums of latents (queries, kv_rank) of one run over one span.
void attend_span(const MlaBlock& b, const Run& run, int span, const MlaSlot& s, SoftmaxState* states, float* values) {
  const MlaSpec& m = b.m;
  const int start = span * kKvSpan, queries = run.end - run.begin;
  const int keys = std::min(kKvSpan, visible_keys(b, run.row(queries - 1, b.heads)) - start);
  const bf16* rows[kKvSpan];
  for (int i = 0; i < keys; ++i) {
    const int position = run.picked ? run.picked[start + i] : start + i;
    rows[i] = b.page(run.blocks[position / kKvBlock]) + static_cast<int64_t>(position % kKvBlock) * m.cached_dim();
  }
  const auto* packed = reinterpret_cast<const std::byte*>(s.packed);

  b.ops.pack_rows(rows, keys, m.cached_dim(), s.packed);
  const Rows q{.data = b.room.query.as<bf16>() + static_cast<int64_t>(run.begin) * m.cached_dim(),
               .stride = m.cached_dim(),
               .count = queries};
  const PackedMatrix as_keys{.n = keys, .k = m.cached_dim(), .data = packed};
  b.ops.matmul(q, as_keys, 0, as_keys.panels(), s.scores, kKvSpan);

  for (int i = 0; i < queries; ++i) {
    const int seen = std::clamp(visible_keys(b, run.row(i, b.heads)) - start, 0, keys);
    const int64_t at = static_cast<int64_t>(i) * kKvSpan;
    states[i] = b.ops.softmax_row(s.scores + at, m.scale, seen, keys, s.weights + at);
  }

  b.ops.pack_columns(rows, keys, m.kv_rank, s.packed);
  const PackedMatrix as_values{.n = m.kv_rank, .k = keys, .data = packed};
  b.ops.matmul({.data = s.weights, .stride = kKvSpan, .count = queries}, as_values, 0, as_values.panels(), values,
               m.kv_rank);
}

}  // namespace

void attend(const MlaBlock& b) {
  const std::vector<Run> runs = cut_runs(b);
  std::vector<QueryRun> spans;
  for (const Run& run : runs) {
    const int queries = run.end - run.begin;
    spans.push_back({queries, static_cast<int>(ceil_div(visible_keys(b, run.row(queries - 1, b.heads)), kKvSpan))});
  }
  const int n = b.m.kv_rank;
  attend_in_spans(
      b.t.kernels, spans, kRunQueries, n, b.t.spans,
      [&](int i, int span, int64_t slot, SoftmaxState* states, float* values) {
        attend_span(b, runs[i], span, slot_of(b.t, slot), states, values);
      },
      [&](int i, const SoftmaxState* states, float* values) {
        for (int q = 0; q < spans[i].queries; ++q) {
          float* sums = values + static_cast<int64_t>(q) * n;
          for (int c = 0; c < n; ++c) sums[c] = sums[c] / states[q].sum;
          to_bf16_row(b.ops, sums, n, b.room.mixed.as<bf16>() + static_cast<int64_t>(runs[i].begin + q) * n);
        }
      });
}

}  // namespace kt
