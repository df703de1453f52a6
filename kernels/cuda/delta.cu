// Gated delta net, token by token (see kernels/cpu/device_delta.cpp).

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "kernels/cuda/arithmetic.h"
#include "kernels/cuda/device.h"

namespace kt::SIMT_TABLE {
namespace {

constexpr float kL2Eps = 1e-6f;
constexpr size_t kMostShared = 96 * 1024;  // of a block, on every device

// ---- convolution

struct ConvJob {
  DeltaHeads heads;
  Mat<float> rows;
  const float* w;
  Slots history;
  Mat<float> convolved;
  DeviceBatch batch;
};
constexpr int kConvThreads = 128, kConvRows = 8;

// Input i of a slice's channel, the history's first.
__device__ float input(const ConvJob& job, const BatchSlice& slice, int64_t i, int channel) {
  const int past = job.heads.taps - 1;
  if (i < past) return job.history.slot(slice.slot)[i * job.heads.channels() + channel];
  return job.rows.row(slice.row + (i - past))[channel];
}

// A thread has a channel of some rows.
__global__ void __launch_bounds__(kConvThreads) conv_kernel(ConvJob job) {
  const int channels = job.heads.channels(), parts = static_cast<int>(ceil_div(channels, kConvThreads));
  const int channel = static_cast<int>(blockIdx.x) % parts * kConvThreads + static_cast<int>(threadIdx.x);
  if (channel >= channels) return;
  const int first = static_cast<int>(blockIdx.x) / parts * kConvRows;
  for (int r = first; r < first + kConvRows && r < job.rows.rows; ++r) {
    const BatchSlice slice = job.batch.slices[job.batch.slice_of[r]];
    float sum = 0.0f;
    for (int i = 0; i < job.heads.taps; ++i)
      sum =
          fmaf(job.w[static_cast<int64_t>(i) * channels + channel], input(job, slice, r - slice.row + i, channel), sum);
    job.convolved.row(r)[channel] = silu(sum);
  }
}

// A thread has a channel of a slice: what is kept of its inputs.
__global__ void __launch_bounds__(kConvThreads) history_kernel(ConvJob job) {
  const int channels = job.heads.channels(), parts = static_cast<int>(ceil_div(channels, kConvThreads));
  const int channel = static_cast<int>(blockIdx.x) % parts * kConvThreads + static_cast<int>(threadIdx.x);
  if (channel >= channels) return;
  const BatchSlice slice = job.batch.slices[static_cast<int>(blockIdx.x) / parts];
  const auto keep = [&](float* history, int tokens) {
    for (int i = 0; i < job.heads.taps - 1; ++i)
      history[static_cast<int64_t>(i) * channels + channel] = input(job, slice, tokens + i, channel);
  };
  if (slice.save >= 0) keep(job.history.slot(slice.save), slice.save_after);
  keep(job.history.slot(slice.slot), slice.count);  // in place: each input is read before it is overwritten
}

// ---- queries, keys and gates

struct InputsJob {
  DeltaHeads heads;
  Mat<float> convolved, gates;
  const float *decay, *dt_bias;
  float query_scale;
  int64_t rows;
};
constexpr int kInputsThreads = 256;

__device__ float softplus(float x) { return x > 20.0f ? x : static_cast<float>(log1p(exp(static_cast<double>(x)))); }

// Sixteen threads have a head of queries or keys of a row, or its gates.
__global__ void __launch_bounds__(kInputsThreads) inputs_kernel(InputsJob job) {
  const DeltaHeads& d = job.heads;
  const int pieces = 2 * d.key_heads + 1, lane = static_cast<int>(threadIdx.x) % 16;
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * kInputsThreads + threadIdx.x) / 16, r = i / pieces;
  const int piece = static_cast<int>(i % pieces);
  const bool here = r < job.rows;
  float* x = job.convolved.row(r) + static_cast<int64_t>(piece) * d.key_dim;
  const int n = here && piece < 2 * d.key_heads ? d.key_dim : 0;
  float squares = 0.0f;
  for (int c = lane; c < n; c += 16) squares = fmaf(x[c], x[c], squares);
  const float scale = 1.0f / sqrtf(fold16_all(squares) + kL2Eps) * (piece < d.key_heads ? job.query_scale : 1.0f);
  for (int c = lane; c < n; c += 16) x[c] = x[c] * scale;
  if (!here || n) return;
  float *beta = job.gates.row(r), *alpha = beta + d.value_heads;
  for (int h = lane; h < d.value_heads; h += 16) {
    alpha[h] = static_cast<float>(exp(static_cast<double>(job.decay[h] * softplus(alpha[h] + job.dt_bias[h]))));
    beta[h] = sigmoid(beta[h]);
  }
}

// ---- recurrence

struct RuleJob {
  DeltaHeads heads;
  Mat<float> convolved, gates;
  Slots states;
  Mat<float> out;
  DeviceBatch batch;
  bool shared_state;  // where keys are not known to the compiler: in shared memory, or where it is
};
constexpr int kColumns = 32, kStages = 4, kMostKeys = 2048;

// A block, one warp, has some columns of the state of a head of a slice; a thread has one, in registers if kKeys is
// the number of its rows (else 0). A token's output and the next one's reading are chains of sums that go on together.
template <int kKeys>
__global__ void __launch_bounds__(kColumns) rule_kernel(RuleJob job) {
  const DeltaHeads& d = job.heads;
  const int keys = kKeys ? kKeys : d.key_dim, lane = static_cast<int>(threadIdx.x);
  const int parts = static_cast<int>(ceil_div(d.value_dim, kColumns));
  const int part = static_cast<int>(blockIdx.x) % parts, h = static_cast<int>(blockIdx.x) / parts % d.value_heads;
  const BatchSlice slice = job.batch.slices[static_cast<int>(blockIdx.x) / parts / d.value_heads];
  const int first = part * kColumns, width = d.value_dim - first < kColumns ? d.value_dim - first : kColumns;
  const bool mine = lane < width;
  const int64_t column_at = static_cast<int64_t>(h) * keys * d.value_dim + first + (mine ? lane : 0);
  const int64_t q_at = static_cast<int64_t>(h / (d.value_heads / d.key_heads)) * keys;
  const int64_t v_at = d.values_at() + static_cast<int64_t>(h) * d.value_dim + first;
  auto* ring = simt::dynamic_shared<float>();  // queries | keys | values of some tokens
  const int token_floats = 2 * keys + kColumns;
  float* const kept = job.states.slot(slice.slot) + column_at;

  float own[kKeys ? kKeys : 1];
  float* const other = job.shared_state ? ring + kStages * token_floats + lane : kept;
  const int stride = job.shared_state ? kColumns : d.value_dim;
  const auto state = [&](int i) -> float& {
    if constexpr (kKeys > 0)
      return own[i];
    else
      return other[i * stride];
  };
  const bool apart = kKeys || job.shared_state;
  if (apart) {
#pragma unroll
    for (int i = 0; i < keys; ++i) state(i) = mine ? kept[static_cast<int64_t>(i) * d.value_dim] : 0.0f;
  }
  const auto store = [&](float* to) {
    if (!mine) return;
#pragma unroll
    for (int i = 0; i < keys; ++i) to[static_cast<int64_t>(i) * d.value_dim] = state(i);
  };

  const auto token_at = [&](int t) { return ring + t % kStages * token_floats; };
  const auto fetch = [&](int t) {
    if (t < slice.count) {
      const float* row = job.convolved.row(slice.row + t);
      for (int i = lane * 4; i < 2 * keys + width; i += 4 * kColumns)
        simt::copy16(token_at(t) + i, row + (i < keys       ? q_at + i
                                             : i < 2 * keys ? d.keys_at() + q_at + i - keys
                                                            : v_at + i - 2 * keys));
    }
    simt::commit();
  };
  // Of sixteen tokens alpha and beta, in the lower and the upper lanes.
  const auto gates_from = [&](int t) {
    t += lane % 16;
    return t < slice.count ? job.gates.row(slice.row + t)[lane < 16 ? d.value_heads + h : h] : 0.0f;
  };
  float gates = gates_from(0), next_gates = gates_from(16);
  for (int t = 0; t < kStages - 1; ++t) fetch(t);
  simt::wait<kStages - 2>();
  __syncthreads();

  const int saved = slice.save < 0 ? slice.count : slice.save_after;
  for (int begin = 0, end = saved, round = 0; round < 2; begin = end, end = slice.count, ++round) {
    float read = 0.0f;
    if (begin < end) {
      const float alpha = __shfl_sync(~0u, gates, begin % 16);
      const float* k = token_at(begin) + keys;
#pragma unroll
      for (int i = 0; i < keys; ++i) {
        const float decayed = state(i) * alpha;
        read = fmaf(decayed, k[i], read);
        state(i) = decayed;
      }
    }
    for (int t = begin; t < end; ++t) {
      simt::wait<kStages - 3>();  // the next token is there
      __syncthreads();
      fetch(t + kStages - 1);
      const float *q = token_at(t), *k = q + keys, *next_k = token_at(t + 1 < slice.count ? t + 1 : t) + keys;
      const float delta = __shfl_sync(~0u, gates, 16 + t % 16) * ((mine ? k[keys + lane] : 0.0f) - read);
      if (t % 16 == 15) gates = next_gates, next_gates = gates_from(t + 17);
      const float next_alpha = __shfl_sync(~0u, gates, (t + 1) % 16), alpha = t + 1 < end ? next_alpha : 1.0f;
      float out = 0.0f;
      read = 0.0f;
#pragma unroll(kKeys ? kKeys / 4 : 4)
      for (int i = 0; i < keys; i += 4) {
        const float4 q4 = *reinterpret_cast<const float4*>(q + i), k4 = *reinterpret_cast<const float4*>(k + i),
                     n4 = *reinterpret_cast<const float4*>(next_k + i);
        const float qs[] = {q4.x, q4.y, q4.z, q4.w}, ks[] = {k4.x, k4.y, k4.z, k4.w}, ns[] = {n4.x, n4.y, n4.z, n4.w};
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const float updated = fmaf(ks[j], delta, state(i + j)), decayed = updated * alpha;
          out = fmaf(updated, qs[j], out);
          read = fmaf(decayed, ns[j], read);
          state(i + j) = decayed;
        }
      }
      if (mine) job.out.row(slice.row + t)[static_cast<int64_t>(h) * d.value_dim + first + lane] = out;
    }
    if (!round && slice.save >= 0) store(job.states.slot(slice.save) + column_at);
  }
  if (apart) store(kept);
}

template <int kKeys>
void start_rule(RuleJob job, size_t slices, simt::Stream stream) {
  const DeltaHeads& d = job.heads;
  const size_t ring = static_cast<size_t>(kStages) * (2 * d.key_dim + kColumns) * sizeof(float),
               state = static_cast<size_t>(d.key_dim) * kColumns * sizeof(float);
  job.shared_state = !kKeys && ring + state <= kMostShared;
  const auto blocks = static_cast<unsigned>(slices * d.value_heads * ceil_div(d.value_dim, kColumns));
  simt::launch(dim3(blocks), dim3(kColumns), job.shared_state ? ring + state : ring, stream, rule_kernel<kKeys>, job);
}

// ---- output

struct GatedJob {
  DeltaHeads heads;
  Mat<float> x, rows;
  const float* w;
  float eps;
  Mat<bf16> out;
};
constexpr int kGatedThreads = 256;

// Sixteen threads have a head of a row.
__global__ void __launch_bounds__(kGatedThreads) gated_kernel(GatedJob job) {
  const DeltaHeads& d = job.heads;
  const int lane = static_cast<int>(threadIdx.x) % 16;
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * kGatedThreads + threadIdx.x) / 16, r = i / d.value_heads;
  const int64_t at = i % d.value_heads * d.value_dim;
  const float *x = job.x.row(r) + at, *z = job.rows.row(r) + d.channels() + at;
  const int n = r < job.x.rows ? d.value_dim : 0;
  float squares = 0.0f;
  for (int c = lane; c < n; c += 16) squares = fmaf(x[c], x[c], squares);
  const float scale = 1.0f / sqrtf(fold16_all(squares) / static_cast<float>(d.value_dim) + job.eps);
  for (int c = lane; c < n; c += 16) job.out.row(r)[at + c] = to_bf16(x[c] * scale * job.w[c] * silu(z[c]));
}

unsigned blocks_of_sixteens(int64_t n, int threads) { return static_cast<unsigned>(ceil_div(16 * n, threads)); }

}  // namespace

void CudaDevice::conv(const DeltaHeads& d, const Mat<float>& rows, const float* w, const Slots& history,
                      const Mat<float>& convolved) {
  if (!rows.rows) return;
  const int slices = static_cast<int>(host_batch_->slices.size());
  const ConvJob job{d, rows, w, history, convolved, batch_};
  const auto parts = static_cast<unsigned>(ceil_div(d.channels(), kConvThreads));
  simt::launch(dim3(parts * static_cast<unsigned>(ceil_div(rows.rows, kConvRows))), dim3(kConvThreads), 0, stream_,
               conv_kernel, job);
  simt::launch(dim3(parts * static_cast<unsigned>(slices)), dim3(kConvThreads), 0, stream_, history_kernel, job);
}

void CudaDevice::delta_inputs(const DeltaHeads& d, const Mat<float>& convolved, const Mat<float>& gates,
                              const float* decay, const float* dt_bias) {
  if (!convolved.rows) return;
  const InputsJob job{.heads = d,
                      .convolved = convolved,
                      .gates = gates,
                      .decay = decay,
                      .dt_bias = dt_bias,
                      .query_scale = 1.0f / std::sqrt(static_cast<float>(d.key_dim)),
                      .rows = convolved.rows};
  simt::launch(dim3(blocks_of_sixteens(job.rows * (2 * d.key_heads + 1), kInputsThreads)), dim3(kInputsThreads), 0,
               stream_, inputs_kernel, job);
}

void CudaDevice::delta_rule(const DeltaHeads& d, const Mat<float>& convolved, const Mat<float>& gates,
                            const Slots& states, const Mat<float>& out) {
  if (!convolved.rows) return;
  if (d.key_dim > kMostKeys) throw std::runtime_error("delta net: keys of more than 2048 elements are not for GPUs");
  const RuleJob job{d, convolved, gates, states, out, batch_, false};
  const size_t slices = host_batch_->slices.size();
  if (d.key_dim == 128)
    start_rule<128>(job, slices, stream_);
  else
    start_rule<0>(job, slices, stream_);
}

void CudaDevice::gated_norm(const DeltaHeads& d, const Mat<float>& x, const Mat<float>& rows, const float* w, float eps,
                            const Mat<bf16>& out) {
  if (!x.rows) return;
  simt::launch(dim3(blocks_of_sixteens(static_cast<int64_t>(x.rows) * d.value_heads, kGatedThreads)),
               dim3(kGatedThreads), 0, stream_, gated_kernel, GatedJob{d, x, rows, w, eps, out});
}

}  // namespace kt::SIMT_TABLE
