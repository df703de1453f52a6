// Routing and routed experts.

#include <algorithm>
#include <cstring>

#include "kernels/cpu/device.h"

namespace kt {
namespace {

using Group = ExpertScratch::Group;

// One call.
struct Running {
  const KernelContext& k;
  const ExpertsJob& job;
  const ExpertScratch& s;
  int groups;
  const FfnWeights& any;  // all are alike

  int hidden = any.down.n, columns = any.columns;
  int64_t ldh = round_up(columns, kTileK);                // of activations
  bool int8 = info(any.gate_up.format).int8_activations;  // rows and activations are quantised for the kernels
  int group_tiles = int8 ? any.down.group_tiles : 1;
  int64_t activation_groups = ceil_div(ldh / kTileK, group_tiles);  // of a row
};

// Counting sort by expert; rows of one expert stay in ascending order. Returns the number of experts with rows.
int group_rows(const Routing& routing, int experts, const ExpertScratch& s) {
  std::fill_n(s.fill, experts, 0);
  const int pairs = routing.rows * routing.top_k;
  for (int i = 0; i < pairs; ++i)
    if (routing.ids[i] >= 0) ++s.fill[routing.ids[i]];
  int groups = 0;
  for (int e = 0, at = 0; e < experts; ++e) {
    const int count = s.fill[e];
    if (count) s.groups[groups++] = {e, at, count};
    s.fill[e] = at;
    at += count;
  }
  for (int i = 0; i < pairs; ++i) {
    if (routing.ids[i] < 0) continue;
    const int at = s.fill[routing.ids[i]]++;
    s.row[at] = i / routing.top_k;
    s.weight[at] = routing.weights[i];
  }
  return groups;
}

// Panels [begin, end) of an expert's activations; begin is the first of a group.
void quantize_activations(const Running& r, const Group& g, int begin, int end) {
  const int first_tile = begin * kPanel / kTileK, tiles = (end - begin) * kPanel / kTileK;
  for (int64_t i = g.begin; i < g.begin + g.count; ++i)
    r.k.ops.quantize(r.s.activations + i * r.ldh + first_tile * kTileK, tiles, r.group_tiles,
                     r.s.quantised.q + i * r.ldh + first_tile * kTileK,
                     r.s.quantised.groups + i * r.activation_groups + first_tile / r.group_tiles);
}

// Tasks are (expert, part of its columns), enough of them to keep every thread busy. Parts begin at groups of the down
// projection's inputs, so that a part can quantise what it has made.
void gate_and_up(const Running& r) {
  const Rows x = input_rows(r.k, r.job.x.top(r.job.routing.rows), r.any.gate_up, r.s.x);
  const int panels = static_cast<int>(r.ldh) / kPanel, unit = r.group_tiles * kTileK / kPanel;
  const int wanted = 4 * r.k.pool.size();
  const int parts = r.groups >= wanted ? 1 : std::min<int>(ceil_div(wanted, r.groups), ceil_div(panels, unit));
  const int step = static_cast<int>(round_up(ceil_div(panels, parts), unit));
  r.k.pool.run(static_cast<int64_t>(r.groups) * parts, [&](int64_t task) {
    const Group& g = r.s.groups[task / parts];
    const int begin = static_cast<int>(task % parts) * step, end = std::min(panels, begin + step);
    if (begin >= end) return;
    Rows mine = x;
    mine.count = g.count;
    mine.index = r.s.row + g.begin;
    r.k.ops.swiglu(mine, r.job.experts[g.expert].gate_up, begin, end, r.s.activations + g.begin * r.ldh, r.ldh);
    if (r.int8) quantize_activations(r, g, begin, end);
  });
}

// Tasks own columns of the output, so no two write to one place.
void down(const Running& r) {
  r.k.split(ceil_div(r.hidden, kPanel), 4, [&](int begin, int end) {
    for (int i = 0; i < r.groups; ++i) {
      const Group& g = r.s.groups[i];
      Rows h{.data = r.s.activations + g.begin * r.ldh, .stride = r.ldh, .count = g.count};
      if (r.int8) {
        h.q = r.s.quantised.q + g.begin * r.ldh;
        h.q_stride = r.ldh;
        h.groups = r.s.quantised.groups + g.begin * r.activation_groups;
        h.group_stride = r.activation_groups;
      }
      r.k.ops.matmul_add(h, r.job.experts[g.expert].down, r.job.slice, begin, end, r.s.weight + g.begin, r.job.y.at,
                         r.job.y.ld, r.s.row + g.begin);
    }
  });
}

}  // namespace

ExpertScratch lay_out_experts(Layout& layout, const ExpertShape& e) {
  const int64_t rows = e.rows, pairs = rows * e.top_k, stride = round_up(e.columns, kTileK);
  ExpertScratch s{.groups = layout.array<Group>(e.experts),
                  .fill = layout.array<int>(e.experts),
                  .row = layout.array<int32_t>(pairs),
                  .weight = layout.array<float>(pairs),
                  .activations = layout.array<bf16>(pairs * stride)};
  if (!info(e.format).int8_activations) return s;
  s.x = lay_out_quantised(layout, rows, e.hidden);
  s.quantised = lay_out_quantised(layout, pairs, stride);
  return s;
}

double CpuDevice::experts(const ExpertsJob& job) {
  if (!shape_.experts.columns || !job.routing.rows) return 0.0;  // a rank may have none of them
  const int groups = group_rows(job.routing, shape_.experts.experts, scratch_.experts);
  if (!groups) return 0.0;
  const FfnWeights& any = job.experts[scratch_.experts.groups[0].expert];
  if (!any.columns) return 0.0;
  const Running r{k_, job, scratch_.experts, groups, any};
  gate_and_up(r);
  down(r);
  return static_cast<double>(groups) * static_cast<double>(any.gate_up.bytes() + any.down.bytes());
}

void CpuDevice::route(const RouteJob& job) {
  k_.split(job.logits.rows, 1, [&](int begin, int end) {
    for (int r = begin; r < end; ++r) {
      float* row = job.logits.row(r);
      int32_t* ids = job.ids + static_cast<int64_t>(r) * job.top_k;
      float* weights = job.weights + static_cast<int64_t>(r) * job.top_k;
      if (job.sigmoid)
        k_.ops.sigmoid_top_k(row, *job.sigmoid, ids, weights);
      else
        k_.ops.softmax_top_k(row, job.experts, job.top_k, job.normalise, ids, weights);
      if (job.shared_gate) k_.ops.sigmoid(row + job.experts, 1, job.shared_gate + r);
    }
  });
}

void CpuDevice::rows_out(const Mat<bf16>& x, std::span<const int32_t> rows, const Mat<bf16>& host) {
  k_.split(static_cast<int64_t>(rows.size()), 8, [&](int begin, int end) {
    for (int i = begin; i < end; ++i) std::copy_n(x.row(rows[i]), x.columns, host.row(i));
  });
}

void CpuDevice::sums_in(const WireSums& host, std::span<const int32_t> rows, const Mat<double>& y) {
  add_sums(host, rows.data(), static_cast<int64_t>(rows.size()), y.columns, y.at, y.ld, k_.pool);
}

}  // namespace kt
