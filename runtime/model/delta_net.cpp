// Gated delta net (Yang et al., "Gated Delta Networks", 2024), token by token in prefill and decode alike, so that a
// token's numbers do not depend on how its prompt was cut.

#include <algorithm>
#include <cmath>

#include "runtime/model/trunk.h"

namespace kt {
namespace {

constexpr float kL2Eps = 1e-6f;
constexpr int kStateColumns = 64;  // of a head's state, per task

float softplus(float x) { return x > 20.0f ? x : static_cast<float>(std::log1p(std::exp(static_cast<double>(x)))); }

// Calls run(first, count) for the tokens of a slice: once, or for those before and after its state is saved.
template <class Run, class Save>
void run_and_save(const SeqSlice& slice, const Run& run, const Save& save) {
  if (slice.save < 0) return run(0, slice.count);
  run(0, slice.save_after);
  save();
  if (slice.save_after < slice.count) run(slice.save_after, slice.count - slice.save_after);
}

void copy_columns(const float* from, float* to, int rows, int64_t stride, int begin, int end) {
  for (int r = 0; r < rows; ++r) std::copy(from + r * stride + begin, from + r * stride + end, to + r * stride + begin);
}

}  // namespace

void mix_delta_net(Trunk& t, int layer, const StepPlan& plan) {
  const DeltaSpec& s = t.config.delta;
  const DeltaWeights& w = t.weights.layers[layer].delta;
  const Ops& ops = t.kernels.ops;
  const int rows = plan.rows(), key_heads = t.share.key_heads.size(), value_heads = t.share.value_heads.size();
  const int ratio = value_heads / key_heads, channels = static_cast<int>(t.stride.conv);
  const int k_at = key_heads * s.key_dim, v_at = 2 * k_at;
  float* fused = t.fused.as<float>();
  float* conv = t.conv.as<float>();
  float* gates = t.gates.as<float>();  // per row: beta of all heads, then alpha

  t.kernels.matmul(t.normed(rows), w.qkvz, fused, t.stride.fused);
  t.kernels.matmul(t.normed(rows), w.ba, gates, t.stride.gates);

  std::vector<int> first_row(plan.slices.size());
  for (size_t i = 1; i < first_row.size(); ++i) first_row[i] = first_row[i - 1] + plan.slices[i - 1].count;
  const int channel_parts = std::max(1, std::min(channels / 64, t.kernels.pool.size()));
  t.kernels.pool.run(static_cast<int64_t>(plan.slices.size()) * channel_parts, [&](int64_t task) {
    const SeqSlice& slice = plan.slices[task / channel_parts];
    const int64_t row = first_row[task / channel_parts];
    const Range part = part_of(channels / 16, static_cast<int>(task % channel_parts), channel_parts);
    const int begin = part.begin * 16, end = part.end * 16;
    float* history = t.cache.conv_history(layer, slice.slot);
    const auto run = [&](int first, int count) {
      ops.conv_silu(fused + (row + first) * t.stride.fused, t.stride.fused, history, w.conv.data(), s.conv_kernel,
                    channels, count, begin, end, conv + (row + first) * channels, channels);
    };
    run_and_save(slice, run, [&] {
      copy_columns(history, t.cache.conv_history(layer, t.cache.snapshot_slot(slice.save)), s.conv_kernel - 1, channels,
                   begin, end);
    });
  });

  t.kernels.split(rows, 1, [&](int begin, int end) {
    for (int r = begin; r < end; ++r) {
      for (int h = 0; h < key_heads; ++h) {
        float* q = conv + static_cast<int64_t>(r) * channels + h * s.key_dim;
        ops.l2_norm(q, kL2Eps, 1.0f / std::sqrt(static_cast<float>(s.key_dim)), s.key_dim);
        ops.l2_norm(q + k_at, kL2Eps, 1.0f, s.key_dim);
      }
      float* g = gates + r * t.stride.gates;
      for (int h = 0; h < value_heads; ++h)
        g[value_heads + h] =
            static_cast<float>(std::exp(static_cast<double>(w.decay[h] * softplus(g[value_heads + h] + w.dt_bias[h]))));
      ops.sigmoid(g, value_heads, g);
    }
  });

  const int column_parts = static_cast<int>(ceil_div(s.value_dim, kStateColumns));
  t.kernels.pool.run(static_cast<int64_t>(plan.slices.size()) * value_heads * column_parts, [&](int64_t task) {
    const int part = static_cast<int>(task % column_parts), h = static_cast<int>(task / column_parts % value_heads);
    const SeqSlice& slice = plan.slices[task / column_parts / value_heads];
    const int64_t row = first_row[task / column_parts / value_heads];
    const float* q = conv + row * channels + h / ratio * s.key_dim;
    const float* g = gates + row * t.stride.gates + h;
    const int column = part * kStateColumns, columns = std::min(kStateColumns, s.value_dim - column);
    const int64_t head_at = static_cast<int64_t>(h) * s.key_dim * s.value_dim;
    float* state = t.cache.delta_state(layer, slice.slot) + head_at;
    const auto run = [&](int first, int count) {
      ops.delta_rule(
          {.q = q + static_cast<int64_t>(first) * channels,
           .k = q + static_cast<int64_t>(first) * channels + k_at,
           .qk_stride = channels,
           .v = conv + (row + first) * channels + v_at + static_cast<int64_t>(h) * s.value_dim,
           .v_stride = channels,
           .alpha = g + first * t.stride.gates + value_heads,
           .beta = g + first * t.stride.gates,
           .gate_stride = t.stride.gates,
           .tokens = count,
           .key_dim = s.key_dim,
           .value_dim = s.value_dim,
           .state = state,
           .out = t.mixed.as<float>() + (row + first) * t.stride.mixed + static_cast<int64_t>(h) * s.value_dim,
           .out_stride = t.stride.mixed},
          column, columns);
    };
    run_and_save(slice, run, [&] {
      copy_columns(state, t.cache.delta_state(layer, t.cache.snapshot_slot(slice.save)) + head_at, s.key_dim,
                   s.value_dim, column, column + columns);
    });
  });

  t.kernels.split(rows, 1, [&](int begin, int end) {
    for (int64_t r = begin; r < end; ++r)
      for (int h = 0; h < value_heads; ++h) {
        const int64_t at = r * t.stride.mixed + static_cast<int64_t>(h) * s.value_dim;
        ops.gated_norm(t.mixed.as<float>() + at, w.norm.data(),
                       fused + r * t.stride.fused + channels + static_cast<int64_t>(h) * s.value_dim, t.config.norm_eps,
                       s.value_dim, t.gated.as<bf16>() + at);
      }
  });
  t.kernels.matmul_add({.data = t.gated.as<bf16>(), .stride = t.stride.mixed, .count = rows}, w.out, s.value_dim,
                       nullptr, t.y.as<double>(), t.stride.y);
}

}  // namespace kt
