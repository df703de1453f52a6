// Grouped-query attention over the paged cache, optionally with normed and gated heads.

#include <algorithm>
#include <cmath>
#include <cstring>

#include "runtime/model/trunk.h"

namespace kt {
namespace {

constexpr int kQueriesPerTask = 32;  // of one sequence and one key-value head

// A run of queries of one sequence for one key-value head.
struct Task {
  const SeqSlice* slice;
  int row;         // of the slice's first token in the step
  int kv_head;     // of this rank
  int begin, end;  // queries: token * group + head in group
  int spans;       // that the last query sees
  const int32_t* blocks;
  size_t part;  // first partial state when split over spans
};

// Norm, rope and cache of the new tokens.
void prepare(Trunk& t, int layer, const StepPlan& plan) {
  const AttentionSpec& a = t.config.attention;
  const AttentionWeights& w = t.weights.layers[layer].attention;
  const Ops& ops = t.kernels.ops;
  const int d = a.head_dim, half = a.rope.dims / 2, q_heads = t.share.heads.size(), kv_heads = t.share.kv_heads.size();
  const int64_t k_at = static_cast<int64_t>(q_heads) * d * (a.gated ? 2 : 1),
                v_at = k_at + static_cast<int64_t>(kv_heads) * d;

  std::vector<int64_t> place(plan.tokens.size());  // block * kKvBlock + offset of each row
  int row = 0;
  for (size_t s = 0; s < plan.slices.size(); ++s)
    for (int i = 0; i < plan.slices[s].count; ++i, ++row) {
      const int position = plan.slices[s].first + i;
      place[row] =
          static_cast<int64_t>(plan.blocks[plan.block_begin[s] + position / kKvBlock]) * kKvBlock + position % kKvBlock;
    }
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

void mix_attention(Trunk& t, int layer, const StepPlan& plan) {
  const AttentionSpec& a = t.config.attention;
  const AttentionWeights& w = t.weights.layers[layer].attention;
  const int rows = plan.rows(), d = a.head_dim, q_heads = t.share.heads.size(),
            group = q_heads / t.share.kv_heads.size();

  t.kernels.matmul(t.normed(rows), w.qkv, t.fused.as<float>(), t.stride.fused);
  prepare(t, layer, plan);

  std::vector<Task> tasks;
  size_t parts = 0;
  for (size_t s = 0, row = 0; s < plan.slices.size(); row += plan.slices[s].count, ++s)
    for (int h = 0; h < t.share.kv_heads.size(); ++h)
      for (int q = 0, all = plan.slices[s].count * group; q < all; q += kQueriesPerTask) {
        const int end = std::min(all, q + kQueriesPerTask);
        const int spans = (plan.slices[s].first + (end - 1) / group) / kKvSpan + 1;
        tasks.push_back(
            {&plan.slices[s], static_cast<int>(row), h, q, end, spans, &plan.blocks[plan.block_begin[s]], parts});
        parts += static_cast<size_t>(spans) * kQueriesPerTask;
      }

  // Few long sequences: threads share the spans of one task and the parts are merged afterwards. Many tasks: each goes
  // through its spans alone. The merging is the same, so the form does not show in the result.
  if (static_cast<int>(tasks.size()) < 2 * t.kernels.pool.size() && parts > tasks.size() * kQueriesPerTask) {
    std::vector<std::pair<int, int>> pieces;
    for (size_t i = 0; i < tasks.size(); ++i)
      for (int span = 0; span < tasks[i].spans; ++span) pieces.push_back({static_cast<int>(i), span});
    t.part_states.resize(std::max(t.part_states.size(), parts));
    t.part_values.resize(std::max(t.part_values.size(), parts * d));
    t.kernels.pool.run(static_cast<int64_t>(pieces.size()), [&](int64_t i) {
      const Task& task = tasks[pieces[i].first];
      const size_t at = task.part + static_cast<size_t>(pieces[i].second) * kQueriesPerTask;
      // attend() indexes by query: hand it the place where query 0 would be.
      t.kernels.ops.attend(job_of(t, layer, task, group), task.begin, task.end, pieces[i].second,
                           t.part_states.data() + at - task.begin,
                           t.part_values.data() + (static_cast<int64_t>(at) - task.begin) * d);
    });
    t.kernels.pool.run(static_cast<int64_t>(tasks.size()), [&](int64_t i) {
      const Task& task = tasks[i];
      for (int q = task.begin; q < task.end; ++q) {
        const size_t first = task.part + static_cast<size_t>(q - task.begin);
        for (int span = 1; span < task.spans; ++span) {
          const size_t other = first + static_cast<size_t>(span) * kQueriesPerTask;
          t.kernels.ops.merge(t.part_states[first], &t.part_values[first * d], t.part_states[other],
                              &t.part_values[other * d], d);
        }
        finish_query(t, task, q, group, t.part_states[first], &t.part_values[first * d]);
      }
    });
  } else {
    t.kernels.pool.run(static_cast<int64_t>(tasks.size()), [&](int64_t i) {
      const Task& task = tasks[i];
      const AttentionJob job = job_of(t, layer, task, group);
      SoftmaxState states[kQueriesPerTask], next[kQueriesPerTask];
      std::vector<float> values(static_cast<size_t>(2 * kQueriesPerTask) * d);
      float* more = values.data() + static_cast<size_t>(kQueriesPerTask) * d;
      t.kernels.ops.attend(job, task.begin, task.end, 0, states - task.begin,
                           values.data() - static_cast<int64_t>(task.begin) * d);
      for (int span = 1; span < task.spans; ++span) {
        t.kernels.ops.attend(job, task.begin, task.end, span, next - task.begin,
                             more - static_cast<int64_t>(task.begin) * d);
        for (int q = 0; q < task.end - task.begin; ++q)
          t.kernels.ops.merge(states[q], values.data() + static_cast<int64_t>(q) * d, next[q],
                              more + static_cast<int64_t>(q) * d, d);
      }
      for (int q = task.begin; q < task.end; ++q)
        finish_query(t, task, q, group, states[q - task.begin],
                     values.data() + static_cast<int64_t>(q - task.begin) * d);
    });
  }

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
