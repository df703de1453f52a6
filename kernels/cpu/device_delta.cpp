// Gated delta net (Yang et al., "Gated Delta Networks", 2024), token by token in prefill and decode alike, so that a
// token's numbers do not depend on how its prompt was cut.

#include <algorithm>
#include <cmath>

#include "kernels/cpu/device.h"

namespace kt {
namespace {

constexpr float kL2Eps = 1e-6f;
constexpr int kStateColumns = 64;  // of a head's state, per task

float softplus(float x) { return x > 20.0f ? x : static_cast<float>(std::log1p(std::exp(static_cast<double>(x)))); }

// Calls run(row, count) for the tokens of a slice: once, or for those before and after its state is saved.
template <class Run, class Save>
void run_and_save(const BatchSlice& slice, const Run& run, const Save& save) {
  if (slice.save < 0) return run(slice.row, slice.count);
  run(slice.row, slice.save_after);
  save();
  if (slice.save_after < slice.count) run(slice.row + slice.save_after, slice.count - slice.save_after);
}

void copy_columns(const float* from, float* to, int rows, int64_t stride, int begin, int end) {
  for (int r = 0; r < rows; ++r) std::copy(from + r * stride + begin, from + r * stride + end, to + r * stride + begin);
}

}  // namespace

// Tasks: some channels of a slice.
void CpuDevice::conv(const DeltaHeads& d, const Mat<float>& rows, const float* w, const Slots& history,
                     const Mat<float>& convolved) {
  const int channels = d.channels(), parts = std::max(1, std::min(channels / 64, k_.pool.size()));
  const auto bound = [&](int64_t part) { return static_cast<int>(channels / 16 * part / parts * 16); };
  k_.pool.run(static_cast<int64_t>(batch_->slices.size()) * parts, [&](int64_t task) {
    const BatchSlice& slice = batch_->slices[task / parts];
    const int begin = bound(task % parts), end = bound(task % parts + 1);
    float* past = history.slot(slice.slot);
    run_and_save(
        slice,
        [&](int row, int count) {
          k_.ops.conv_silu(rows.row(row), rows.ld, past, w, d.taps, channels, count, begin, end, convolved.row(row),
                           convolved.ld);
        },
        [&] { copy_columns(past, history.slot(slice.save), d.taps - 1, channels, begin, end); });
  });
}

void CpuDevice::delta_inputs(const DeltaHeads& d, const Mat<float>& convolved, const Mat<float>& gates,
                             const float* decay, const float* dt_bias) {
  k_.split(convolved.rows, 1, [&](int begin, int end) {
    for (int r = begin; r < end; ++r) {
      for (int h = 0; h < d.key_heads; ++h) {
        float* q = convolved.row(r) + static_cast<int64_t>(h) * d.key_dim;
        k_.ops.l2_norm(q, kL2Eps, 1.0f / std::sqrt(static_cast<float>(d.key_dim)), d.key_dim);
        k_.ops.l2_norm(q + d.keys_at(), kL2Eps, 1.0f, d.key_dim);
      }
      float *beta = gates.row(r), *alpha = beta + d.value_heads;
      for (int h = 0; h < d.value_heads; ++h)
        alpha[h] = static_cast<float>(std::exp(static_cast<double>(decay[h] * softplus(alpha[h] + dt_bias[h]))));
      k_.ops.sigmoid(beta, d.value_heads, beta);
    }
  });
}

// Tasks: some columns of the state of a head of a slice.
void CpuDevice::delta_rule(const DeltaHeads& d, const Mat<float>& convolved, const Mat<float>& gates,
                           const Slots& states, const Mat<float>& out) {
  const int parts = static_cast<int>(ceil_div(d.value_dim, kStateColumns)), ratio = d.value_heads / d.key_heads;
  k_.pool.run(static_cast<int64_t>(batch_->slices.size()) * d.value_heads * parts, [&](int64_t task) {
    const int h = static_cast<int>(task / parts % d.value_heads);
    const BatchSlice& slice = batch_->slices[task / parts / d.value_heads];
    const int column = static_cast<int>(task % parts) * kStateColumns;
    const int columns = std::min(kStateColumns, d.value_dim - column);
    const int64_t head_at = static_cast<int64_t>(h) * d.key_dim * d.value_dim;
    float* state = states.slot(slice.slot) + head_at;
    const auto run = [&](int row, int count) {
      const float* q = convolved.row(row) + static_cast<int64_t>(h) / ratio * d.key_dim;
      k_.ops.delta_rule({.q = q,
                         .k = q + d.keys_at(),
                         .qk_stride = convolved.ld,
                         .v = convolved.row(row) + d.values_at() + static_cast<int64_t>(h) * d.value_dim,
                         .v_stride = convolved.ld,
                         .alpha = gates.row(row) + d.value_heads + h,
                         .beta = gates.row(row) + h,
                         .gate_stride = gates.ld,
                         .tokens = count,
                         .key_dim = d.key_dim,
                         .value_dim = d.value_dim,
                         .state = state,
                         .out = out.row(row) + static_cast<int64_t>(h) * d.value_dim,
                         .out_stride = out.ld},
                        column, columns);
    };
    run_and_save(slice, run, [&] {
      copy_columns(state, states.slot(slice.save) + head_at, d.key_dim, d.value_dim, column, column + columns);
    });
  });
}

void CpuDevice::gated_norm(const DeltaHeads& d, const Mat<float>& x, const Mat<float>& rows, const float* w, float eps,
                           const Mat<bf16>& out) {
  k_.split(x.rows, 1, [&](int begin, int end) {
    for (int r = begin; r < end; ++r)
      for (int h = 0; h < d.value_heads; ++h) {
        const int64_t at = static_cast<int64_t>(h) * d.value_dim;
        k_.ops.gated_norm(x.row(r) + at, w, rows.row(r) + d.channels() + at, eps, d.value_dim, out.row(r) + at);
      }
  });
}

}  // namespace kt
