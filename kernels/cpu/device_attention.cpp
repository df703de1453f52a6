// Grouped-query attention.

#include <cmath>

#include "kernels/cpu/device.h"

namespace kt {
namespace {

Pages of_head(const Pages& pages, int kv_head, int head_dim) {
  return {pages.at + kv_head * kv_page_elements(head_dim), pages.stride};
}

}  // namespace

void CpuDevice::heads(const HeadsJob& job) {
  const GroupedHeads& g = job.heads;
  const int d = g.head_dim, half = batch_->half();
  k_.split(job.rows.rows, 1, [&](int begin, int end) {
    for (int r = begin; r < end; ++r) {
      float* row = job.rows.row(r);
      float *keys = row + g.keys_at(), *values = row + g.values_at();
      for (size_t i = 0; i < job.bias.size(); ++i) row[i] += job.bias[i];
      const auto finish = [&](float* head, const float* norm) {
        if (norm) k_.ops.head_norm(head, norm, job.eps, d);
        k_.ops.rope(head, batch_->cosines_of(r), batch_->sines_of(r), half);
      };
      for (int64_t h = 0; h < g.heads; ++h) finish(row + h * d, job.q_norm);
      for (int64_t h = 0; h < g.kv_heads; ++h) finish(keys + h * d, job.k_norm);
      const int64_t place = batch_->places[r];
      for (int64_t h = 0; h < g.kv_heads; ++h)
        k_.ops.store_kv(keys + h * d, values + h * d, d, static_cast<int>(place % kKvBlock),
                        of_head(job.pages, static_cast<int>(h), d).page(place / kKvBlock));
    }
  });
}

// The runs were cut for the heads of reserve().
void CpuDevice::attend(const GroupedHeads& g, const Mat<float>& rows, const Pages& pages, const Mat<bf16>& out) {
  const int d = g.head_dim, group = g.group();
  const auto job_of = [&](const HeadRun& run) {
    const BatchSlice& slice = batch_->slices[run.slice];
    const Pages mine = of_head(pages, run.kv_head, d);
    return AttentionJob{.q = rows.row(slice.row) + static_cast<int64_t>(run.kv_head) * group * d,
                        .q_stride = rows.ld,
                        .first = slice.first,
                        .group = group,
                        .head_dim = d,
                        .scale = 1.0f / std::sqrt(static_cast<float>(d)),
                        .pages = mine.at,
                        .page_stride = mine.stride,
                        .blocks = batch_->blocks_of(slice)};
  };
  attend_in_spans(
      k_, std::span(head_runs_), kQueriesPerTask, d, scratch_.spans,
      [&](const HeadRun& run, int span, int64_t, SoftmaxState* states, float* values) {
        // Ops::attend indexes by query: hand it the place where query 0 would be.
        k_.ops.attend(job_of(run), run.first, run.first + run.queries, span, states - run.first,
                      values - static_cast<int64_t>(run.first) * d);
      },
      [&](const HeadRun& run, const SoftmaxState* states, float* values) {
        for (int i = 0; i < run.queries; ++i) {
          const int query = run.first + i, r = batch_->slices[run.slice].row + query / group;
          const int64_t column = (static_cast<int64_t>(run.kv_head) * group + query % group) * d;
          float* sums = values + static_cast<int64_t>(i) * d;
          for (int c = 0; c < d; ++c) sums[c] = sums[c] / states[i].sum;
          k_.ops.gate_output(sums, g.gated ? rows.row(r) + g.query_columns() + column : nullptr, d,
                             out.row(r) + column);
        }
      });
}

}  // namespace kt
