// Attention over cached latents: scores and sums are matrix products whose weights are cached rows, packed as needed.

#include <algorithm>

#include "kernels/cpu/latent.h"

namespace kt {
namespace {

constexpr int kLeastRunQueries = 16;

// One call: some rows of a batch, and what is known of them.
struct Attending {
  const KernelContext& k;
  const LatentLayer& l;
  const LatentScratch& scratch;
  const Batch& batch;
  RowRange rows;
  Mat<bf16> query;
  Mat<int32_t> picked;

  const LatentHeads& m = l.heads;

  const BatchSlice& slice(int row) const { return batch.slices[batch.slice_of[rows.first + row]]; }
  int position(int row) const { return batch.positions[rows.first + row]; }
  bool sparse(int row) const { return picks(m, batch, rows.first + row); }
  int visible_keys(int row) const { return sparse(row) ? m.top_k : position(row) + 1; }
  int row_of(const LatentRun& run, int query) const { return (run.begin + query) / m.heads; }
};

// Long runs share packed keys; short ones keep all threads busy.
int run_length(const Attending& a) {
  int64_t spans = 1;
  for (int r = 0; r < a.rows.count; ++r) spans = std::max<int64_t>(spans, ceil_div(a.visible_keys(r), kKvSpan));
  int length = kRunQueries;
  while (length > kLeastRunQueries && a.rows.count * a.m.heads * spans < 2ll * a.k.pool.size() * length) length /= 2;
  return length;
}

// Adds runs of rows [first, last).
void cut_runs(const Attending& a, int first, int last, int length, std::vector<LatentRun>& runs) {
  for (int q = first * a.m.heads; q < last * a.m.heads; q += length) {
    LatentRun run;
    run.begin = q;
    run.queries = std::min(q + length, last * a.m.heads) - q;
    run.blocks = a.batch.blocks_of(a.slice(first));
    run.picked = a.sparse(first) ? a.picked.row(first) : nullptr;
    run.spans = static_cast<int>(ceil_div(a.visible_keys(a.row_of(run, run.queries - 1)), kKvSpan));
    runs.push_back(run);
  }
}

// Cached rows of entries [start, start + count) of a key list.
void find_keys(const LatentLayer& l, const int32_t* blocks, const int32_t* picked, int start, int count,
               const bf16** rows) {
  for (int i = 0; i < count; ++i) {
    const int position = picked ? picked[start + i] : start + i;
    rows[i] =
        l.pages.page(blocks[position / kKvBlock]) + static_cast<int64_t>(position % kKvBlock) * l.heads.cached_dim();
  }
}

// Packs the first `keys` positions of a sequence for all runs of it.
void pack_sequence(const Attending& a, const int32_t* blocks, int keys) {
  a.k.pool.run(2 * ceil_div(keys, kKvSpan), [&](int64_t i) {
    const int span = static_cast<int>(i / 2), start = span * kKvSpan, count = std::min(kKvSpan, keys - start);
    const bf16* rows[kKvSpan];
    find_keys(a.l, blocks, nullptr, start, count, rows);
    if (i % 2 == 0)
      a.k.ops.pack_rows(rows, count, a.m.cached_dim(), packed_keys(a.m, a.scratch, span));
    else
      a.k.ops.pack_columns(rows, count, a.m.kv_rank, packed_values(a.m, a.scratch, span));
  });
}

// Softmax states and unnormalised sums of latents (queries, kv_rank) of one run over one span.
void attend_span(const Attending& a, const LatentRun& run, int span, const LatentSlot& s, SoftmaxState* states,
                 float* values) {
  const LatentHeads& m = a.m;
  const Ops& ops = a.k.ops;
  const int start = span * kKvSpan;
  const int seen = std::min(kKvSpan, a.visible_keys(a.row_of(run, run.queries - 1)) - start);  // by any of them
  const int keys = run.packed ? std::min(kKvSpan, run.packed - start) : seen;
  bf16* const as_rows = run.packed ? packed_keys(m, a.scratch, span) : s.packed;
  bf16* const as_columns = run.packed ? packed_values(m, a.scratch, span) : s.packed;
  const bf16* rows[kKvSpan];
  if (!run.packed) find_keys(a.l, run.blocks, run.picked, start, keys, rows);

  if (!run.packed) ops.pack_rows(rows, keys, m.cached_dim(), as_rows);
  const Rows q{.data = a.query.at + static_cast<int64_t>(run.begin) * m.cached_dim(),
               .stride = m.cached_dim(),
               .count = run.queries};
  const PackedMatrix key_matrix{.n = keys, .k = m.cached_dim(), .data = reinterpret_cast<const std::byte*>(as_rows)};
  ops.matmul(q, key_matrix, 0, static_cast<int>(ceil_div(seen, kPanel)), s.scores, kKvSpan);

  for (int i = 0; i < run.queries; ++i) {
    const int mine = std::clamp(a.visible_keys(a.row_of(run, i)) - start, 0, seen);
    const int64_t at = static_cast<int64_t>(i) * kKvSpan;
    states[i] = ops.softmax_row(s.scores + at, m.scale, mine, keys, s.weights + at);
  }

  if (!run.packed) ops.pack_columns(rows, keys, m.kv_rank, as_columns);
  const PackedMatrix values_matrix{.n = m.kv_rank, .k = keys, .data = reinterpret_cast<const std::byte*>(as_columns)};
  ops.matmul({.data = s.weights, .stride = kKvSpan, .count = run.queries}, values_matrix, 0, values_matrix.panels(),
             values, m.kv_rank);
}

void attend_runs(const Attending& a, std::vector<LatentRun>& runs, const SpanRoom& room, const Mat<bf16>& sums) {
  const int n = a.m.kv_rank;
  attend_in_spans(
      a.k, std::span(runs), kRunQueries, n, room,
      [&](const LatentRun& run, int span, int64_t slot, SoftmaxState* states, float* values) {
        attend_span(a, run, span, slot_of(a.m, a.scratch, slot), states, values);
      },
      [&](const LatentRun& run, const SoftmaxState* states, float* values) {
        for (int q = 0; q < run.queries; ++q) {
          float* mine = values + static_cast<int64_t>(q) * n;
          for (int c = 0; c < n; ++c) mine[c] = mine[c] / states[q].sum;
          to_bf16_row(a.k.ops, mine, n, sums.at + static_cast<int64_t>(run.begin + q) * n);
        }
      });
}

}  // namespace

// Rows of one sequence that see all keys before them share packed ones when there are enough of them to keep all
// threads busy; the others, of other sequences or with picked keys, pack their own.
void CpuDevice::attend_latents(const LatentLayer& l, RowRange rows, const Mat<bf16>& query, const Mat<int32_t>& picked,
                               const Mat<bf16>& sums) {
  const Attending a{k_, l, scratch_.latent, *batch_, rows, query, picked};
  const int length = run_length(a);
  lone_runs_.clear();
  for (int first = 0, last; first < rows.count; first = last) {
    last = first + 1;
    const int slice = batch_->slice_of[rows.first + first];
    while (!a.sparse(first) && last < rows.count && batch_->slice_of[rows.first + last] == slice && !a.sparse(last))
      ++last;
    latent_runs_.clear();
    cut_runs(a, first, last, length, latent_runs_);
    if (last - first > 1 && static_cast<int>(latent_runs_.size()) >= 2 * k_.pool.size()) {
      const int keys = a.position(last - 1) + 1;
      pack_sequence(a, batch_->blocks_of(a.slice(first)), keys);
      for (LatentRun& run : latent_runs_) run.packed = keys;
      attend_runs(a, latent_runs_, scratch_.spans, sums);
    } else {
      lone_runs_.insert(lone_runs_.end(), latent_runs_.begin(), latent_runs_.end());
    }
  }
  attend_runs(a, lone_runs_, scratch_.spans, sums);
}

}  // namespace kt
