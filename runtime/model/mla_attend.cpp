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
  int packed = 0;         // keys of the sequence that lie packed in the room; 0: the run packs its own

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

// Runs of rows [first, last).
std::vector<Run> cut_runs(const MlaBlock& b, int first, int last, int length) {
  std::vector<Run> runs;
  for (int q = first * b.heads; q < last * b.heads; q += length)
    runs.push_back(
        {q, std::min(q + length, last * b.heads), b.tokens[first].blocks, b.sparse(first) ? b.picked(first) : nullptr});
  return runs;
}

// Cached rows of entries [start, start + count) of a key list.
void find_keys(const MlaBlock& b, const int32_t* blocks, const int32_t* picked, int start, int count,
               const bf16** rows) {
  for (int i = 0; i < count; ++i) {
    const int position = picked ? picked[start + i] : start + i;
    rows[i] = b.page(blocks[position / kKvBlock]) + static_cast<int64_t>(position % kKvBlock) * b.m.cached_dim();
  }
}

// Packs the first `keys` positions of a sequence into the room, for all runs of it.
void pack_sequence(const MlaBlock& b, const int32_t* blocks, int keys) {
  const int64_t spans = ceil_div(keys, kKvSpan);
  b.room.make_packed(b.m, spans, b.t.kernels.pool);
  b.t.kernels.pool.run(2 * spans, [&](int64_t i) {
    const int span = static_cast<int>(i / 2), start = span * kKvSpan, count = std::min(kKvSpan, keys - start);
    const bf16* rows[kKvSpan];
    find_keys(b, blocks, nullptr, start, count, rows);
    if (i % 2 == 0)
      b.ops.pack_rows(rows, count, b.m.cached_dim(), b.room.packed_keys(b.m, span));
    else
      b.ops.pack_columns(rows, count, b.m.kv_rank, b.room.packed_values(b.m, span));
  });
}

// Softmax states and unnormalised sums of latents (queries, kv_rank) of one run over one span.
void attend_span(const MlaBlock& b, const Run& run, int span, const MlaSlot& s, SoftmaxState* states, float* values) {
  const MlaSpec& m = b.m;
  const int start = span * kKvSpan, queries = run.end - run.begin;
  const int seen = std::min(kKvSpan, visible_keys(b, run.row(queries - 1, b.heads)) - start);  // by any of them
  const int keys = run.packed ? std::min(kKvSpan, run.packed - start) : seen;
  bf16* const packed_keys = run.packed ? b.room.packed_keys(m, span) : s.packed;
  bf16* const packed_values = run.packed ? b.room.packed_values(m, span) : s.packed;
  const bf16* rows[kKvSpan];
  if (!run.packed) find_keys(b, run.blocks, run.picked, start, keys, rows);

  if (!run.packed) b.ops.pack_rows(rows, keys, m.cached_dim(), packed_keys);
  const Rows q{.data = b.room.query.as<bf16>() + static_cast<int64_t>(run.begin) * m.cached_dim(),
               .stride = m.cached_dim(),
               .count = queries};
  const PackedMatrix as_keys{.n = keys, .k = m.cached_dim(), .data = reinterpret_cast<const std::byte*>(packed_keys)};
  b.ops.matmul(q, as_keys, 0, static_cast<int>(ceil_div(seen, kPanel)), s.scores, kKvSpan);

  for (int i = 0; i < queries; ++i) {
    const int mine = std::clamp(visible_keys(b, run.row(i, b.heads)) - start, 0, seen);
    const int64_t at = static_cast<int64_t>(i) * kKvSpan;
    states[i] = b.ops.softmax_row(s.scores + at, m.scale, mine, keys, s.weights + at);
  }

  if (!run.packed) b.ops.pack_columns(rows, keys, m.kv_rank, packed_values);
  const PackedMatrix as_values{.n = m.kv_rank, .k = keys, .data = reinterpret_cast<const std::byte*>(packed_values)};
  b.ops.matmul({.data = s.weights, .stride = kKvSpan, .count = queries}, as_values, 0, as_values.panels(), values,
               m.kv_rank);
}

void attend_runs(const MlaBlock& b, const std::vector<Run>& runs) {
  if (runs.empty()) return;
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

}  // namespace

// Rows of one sequence that see all keys before them share packed ones when there are enough of them to keep all
// threads busy; the others, of other sequences or with picked keys, pack their own.
void attend(const MlaBlock& b) {
  const int length = run_length(b);
  std::vector<Run> apart;
  for (int first = 0, last; first < b.rows; first = last) {
    last = first + 1;
    while (!b.sparse(first) && last < b.rows && b.tokens[last].slice == b.tokens[first].slice && !b.sparse(last))
      ++last;
    std::vector<Run> runs = cut_runs(b, first, last, length);
    if (last - first > 1 && static_cast<int>(runs.size()) >= 2 * b.t.kernels.pool.size()) {
      const int keys = b.tokens[last - 1].position + 1;
      pack_sequence(b, b.tokens[first].blocks, keys);
      for (Run& run : runs) run.packed = keys;
      attend_runs(b, runs);
    } else {
      apart.insert(apart.end(), runs.begin(), runs.end());
    }
  }
  attend_runs(b, apart);
}

}  // namespace kt
