// Grouped-query attention over the paged cache, optionally with normed and gated heads.

#include <algorithm>
#include <cmath>
#include <cstring>

#include "runtime/model/spans.h"
#include "runtime/model/trunk.h"

namespace kt {
namespace {

constexpr int kQueriesPerTask = 32;  // of one sequence and one key-value head

// A run of queries of one sequence for one key-value head.
struct Task {
  const SeqSlice* slice;
  int row;      // of the slice's first token in the step
  int kv_head;  // of this rank
  int begin;    // first query: token * group + head in group
  const int32_t* blocks;
};

// Norm, rope and cache of the new tokens.
void prepare(Trunk& t, int layer, const StepPlan& plan) {
  const AttentionSpec& a = t.config.attention;
  const AttentionWeights& w = t.weights.layers[layer].attention;
  const Ops& ops = t.kernels.ops;
  const int d = a.head_dim, half = a.rope.dims / 2, q_heads = t.share.heads.size(), kv_heads = t.share.kv_heads.size();
  const int64_t k_at = static_cast<int64_t>(q_heads) * d * (a.gated ? 2 : 1),
                v_at = k_at + static_cast<int64_t>(kv_heads) * d;

  const std::vector<int64_t> place = cache_places(plan);
  t.kernels.split(plan.rows(), 1, [&](int begin, int end) {
    for (int r = begin; r < end; ++r) {
      float* fused = t.fused.as<float>() + r * t.stride.fused;
      const float* cosines = &t.rope_cos[static_cast<size_t>(r) * half];
      const float* sines = &t.rope_sin[static_cast<size_t>(r) * half];
      for (size_t i = 0; i < w.bias.size(); ++i) fused[i] += w.bias[i];
      for (int h = 0; h < q_heads + kv_heads; ++h) {
        float* head =
            h < q_heads ? fused + static_cast<int64_t>(h) * d : fused + k_at + static_cast<int64_t>(h - q_heads) * d;
        if (a.qk_norm) ops.head_norm(head, (h < q_heads ? w.q_norm : w.k_norm).data(), t.config.norm_eps, d);
        ops.rope(head, cosines, sines, half);
      }
      for (int h = 0; h < kv_heads; ++h)
        ops.store_kv(fused + k_at + static_cast<int64_t>(h) * d, fused + v_at + static_cast<int64_t>(h) * d, d,
                     static_cast<int>(place[r] % kKvBlock),
                     t.cache.pages(layer, h) + place[r] / kKvBlock * t.cache.page_stride());
    }
  });
}

AttentionJob job_of(const Trunk& t, int layer, const Task& task, int group) {
  const AttentionSpec& a = t.config.attention;
  return {
      .q = t.fused.as<float>() + task.row * t.stride.fused + static_cast<int64_t>(task.kv_head) * group * a.head_dim,
      .q_stride = t.stride.fused,
      .first = task.slice->first,
      .group = group,
      .head_dim = a.head_dim,
      .scale = 1.0f / std::sqrt(static_cast<float>(a.head_dim)),
      .pages = t.cache.pages(layer, task.kv_head),
      .page_stride = t.cache.page_stride(),
      .blocks = task.blocks};
}

// Divides by the sum and puts a query's values where its head belongs.
void finish_query(Trunk& t, const Task& task, int query, int group, const SoftmaxState& state, const float* values) {
  const int d = t.config.attention.head_dim;
  float* out = t.mixed.as<float>() + (task.row + query / group) * t.stride.mixed +
               (static_cast<int64_t>(task.kv_head) * group + query % group) * d;
  for (int i = 0; i < d; ++i) out[i] = values[i] / state.sum;
}

}  // namespace

size_t attention_room_bytes(const AttentionSpec& attention, int threads, int context) {
  return span_room_bytes(threads, ceil_div(context, kKvSpan), kQueriesPerTask, attention.head_dim);
}

void mix_attention(Trunk& t, int layer, const StepPlan& plan) {
  const AttentionSpec& a = t.config.attention;
  const AttentionWeights& w = t.weights.layers[layer].attention;
  const int rows = plan.rows(), d = a.head_dim, q_heads = t.share.heads.size(),
            group = q_heads / t.share.kv_heads.size();

  t.kernels.matmul(t.normed(rows), w.qkv, t.fused.as<float>(), t.stride.fused);
  prepare(t, layer, plan);

  std::vector<Task> tasks;
  std::vector<QueryRun> runs;
  for (size_t s = 0, row = 0; s < plan.slices.size(); row += plan.slices[s].count, ++s)
    for (int h = 0; h < t.share.kv_heads.size(); ++h)
      for (int q = 0, all = plan.slices[s].count * group; q < all; q += kQueriesPerTask) {
        const int end = std::min(all, q + kQueriesPerTask);
        tasks.push_back({&plan.slices[s], static_cast<int>(row), h, q, &plan.blocks[plan.block_begin[s]]});
        runs.push_back({end - q, (plan.slices[s].first + (end - 1) / group) / kKvSpan + 1});
      }
  attend_in_spans(
      t.kernels, runs, kQueriesPerTask, d, t.spans,
      [&](int i, int span, int64_t, SoftmaxState* states, float* values) {
        // attend() indexes by query: hand it the place where query 0 would be.
        const int begin = tasks[i].begin;
        t.kernels.ops.attend(job_of(t, layer, tasks[i], group), begin, begin + runs[i].queries, span, states - begin,
                             values - static_cast<int64_t>(begin) * d);
      },
      [&](int i, const SoftmaxState* states, const float* values) {
        for (int q = 0; q < runs[i].queries; ++q)
          finish_query(t, tasks[i], tasks[i].begin + q, group, states[q], values + static_cast<int64_t>(q) * d);
      });

  const int columns = q_heads * d;
  t.kernels.split(rows, 1, [&](int begin, int end) {
    for (int r = begin; r < end; ++r)
      t.kernels.ops.gate_output(t.mixed.as<float>() + r * t.stride.mixed,
                                a.gated ? t.fused.as<float>() + r * t.stride.fused + columns : nullptr, columns,
                                t.gated.as<bf16>() + r * t.stride.mixed);
  });
  t.kernels.matmul_add({.data = t.gated.as<bf16>(), .stride = t.stride.mixed, .count = rows}, w.out, d, nullptr,
                       t.y.as<double>(), t.stride.y);
}

}  // namespace kt
