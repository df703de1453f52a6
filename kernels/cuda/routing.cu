// Routing, and rows and sums that travel.

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "kernels/cuda/arithmetic.h"
#include "kernels/cuda/device.h"
#include "kernels/in_lines.h"

namespace kt::SIMT_TABLE {
namespace {

constexpr int kThreads = 256;

// ---- experts of a row. Scores are compared as ranks, integers in the same order: -0 is 0, and NaN lies above or below
// everything by its sign. A key orders by rank, then by the lower index.

__device__ uint32_t rank_of(float score) {  // never 0
  const uint32_t u = __float_as_uint(score + 0.0f), rank = u & 0x80000000u ? ~u : u | 0x80000000u;
  return rank ? rank : 1;
}
__device__ float score_of(uint32_t rank) { return __uint_as_float(rank & 0x80000000u ? rank & 0x7fffffffu : ~rank); }
constexpr uint64_t kAboveAll = ~uint64_t{0}, kBelowAll = 0xffffffffu;
__device__ int index_of(uint64_t key) { return static_cast<int>(~static_cast<uint32_t>(key)); }

// The largest key below `last`, for all lanes; what has rank 0 has none.
__device__ uint64_t next_key(const uint32_t* ranks, int n, uint64_t last) {
  uint64_t best = kBelowAll;
  for (int i = static_cast<int>(threadIdx.x); i < n; i += 32) {
    const uint64_t key = static_cast<uint64_t>(ranks[i]) << 32 | ~static_cast<uint32_t>(i);
    if (key < last && key > best) best = key;
  }
  for (int bit = 16; bit; bit /= 2) {
    const uint64_t other = __shfl_xor_sync(~0u, best, bit);
    if (other > best) best = other;
  }
  return best;
}

struct RouteArguments {
  Mat<float> logits;
  const float* bias;  // of sigmoids; null: softmax
  int experts, top_k, groups, kept_groups;
  bool normalise;
  float least, scale;  // of sums of weights, and of weights
  int32_t* ids;
  float *weights, *shared_gate;
};

// Ranks of experts outside of the best groups become 0.
__device__ void keep_best_groups(const RouteArguments& j, uint32_t* ranks, uint32_t* groups) {
  const int lane = static_cast<int>(threadIdx.x), size = j.experts / j.groups;
  for (int g = lane; g < j.groups; g += 32) {
    uint32_t first = 0, second = 0;
    for (int e = g * size; e < (g + 1) * size; ++e) {
      const uint32_t rank = ranks[e], smaller = rank < first ? rank : first;
      if (smaller > second) second = smaller;
      if (rank > first) first = rank;
    }
    groups[g] = rank_of(size < 2 ? score_of(first) : score_of(first) + score_of(second));
  }
  __syncwarp();
  uint64_t kept = 0, last = kAboveAll;
  for (int k = 0; k < j.kept_groups; ++k) {
    last = next_key(groups, j.groups, last);
    kept |= uint64_t{1} << index_of(last);
  }
  for (int e = lane; e < j.experts; e += 32)
    if (!(kept >> e / size & 1)) ranks[e] = 0;
  __syncwarp();
}

// A block is a warp: it finds the experts of a row, one after the other, and then their weights.
__global__ void __launch_bounds__(32) route_row(RouteArguments j) {
  const int lane = static_cast<int>(threadIdx.x);
  const float* logits = j.logits.row(blockIdx.x);
  auto* ranks = simt::dynamic_shared<uint32_t>();
  uint32_t* groups = ranks + j.experts;
  auto* ids = reinterpret_cast<int32_t*>(groups + j.groups);
  auto* weights = reinterpret_cast<float*>(ids + j.top_k);

  for (int e = lane; e < j.experts; e += 32) ranks[e] = rank_of(j.bias ? sigmoid(logits[e]) + j.bias[e] : logits[e]);
  __syncwarp();
  if (j.kept_groups < j.groups) keep_best_groups(j, ranks, groups);
  uint64_t last = kAboveAll;
  for (int k = 0; k < j.top_k; ++k) {
    last = next_key(ranks, j.experts, last);
    if (lane == 0) ids[k] = index_of(last);
  }
  __syncwarp();

  if (j.bias) {
    for (int k = lane; k < j.top_k; k += 32) weights[k] = sigmoid(logits[ids[k]]);
  } else {
    const float top = logits[ids[0]];
    for (int e = lane; e < j.experts; e += 32) ranks[e] = __float_as_uint(exponential(logits[e] - top));
    __syncwarp();
    float sum = 0.0f;
    for (int e = lane % 16; e < j.experts; e += 16) sum = sum + __uint_as_float(ranks[e]);
    const float total = fold16_all(sum);
    for (int k = lane; k < j.top_k; k += 32) weights[k] = __uint_as_float(ranks[ids[k]]) / total;
  }
  __syncwarp();
  float chosen = 0.0f;
  for (int k = 0; k < j.top_k; ++k) chosen = chosen + weights[k];
  const int64_t to = static_cast<int64_t>(blockIdx.x) * j.top_k;
  for (int k = lane; k < j.top_k; k += 32) {
    const float w = j.normalise ? weights[k] / (chosen + j.least) : weights[k];
    j.ids[to + k] = ids[k];
    j.weights[to + k] = w * j.scale;
  }
  if (j.shared_gate && lane == 0) j.shared_gate[blockIdx.x] = sigmoid(logits[j.experts]);
}

// ---- rows and sums. Which rows they are travels with a launch's arguments.

struct WaveRows {
  int32_t at[kWaveRows];
};
template <class Wave>
void in_waves(std::span<const int32_t> rows, size_t most, const Wave& wave) {
  if (!most) throw std::logic_error("rows are wider than was reserved for");
  for (size_t first = 0; first < rows.size(); first += most) {
    const size_t count = std::min(most, rows.size() - first);
    WaveRows of;
    std::copy_n(rows.data() + first, count, of.at);
    wave(static_cast<int64_t>(first), static_cast<int>(count), of);
  }
}
dim3 row_grid(int64_t threads, int rows) {
  return {static_cast<unsigned>(ceil_div(threads, kThreads)), static_cast<unsigned>(rows)};
}
// Of a row, in each of its block's threads.
__device__ int column() { return static_cast<int>(blockIdx.x * kThreads + threadIdx.x); }

// A thread copies 16 bytes, of a row that is as long as a multiple of that; rows lie at multiples of it.
__global__ void __launch_bounds__(kThreads) gather_rows(Mat<bf16> x, WaveRows rows, Mat<bf16> to) {
  const int i = column();
  if (i * 8 >= to.columns) return;
  const auto* from = reinterpret_cast<const uint4*>(x.row(rows.at[blockIdx.y]));
  reinterpret_cast<uint4*>(to.row(blockIdx.y))[i] = from[i];
}

// Two neighbours, of rows at multiples of them.
template <class T>
struct alignas(2 * sizeof(T)) Two {
  T first, second;
};
__device__ double widen(double x) { return x; }
__device__ double widen(float x) { return static_cast<double>(x); }
__device__ double widen(bf16 x) { return static_cast<double>(to_float(x)); }

// A thread adds two values. They are in the host's memory, and read once.
template <class T>
__global__ void __launch_bounds__(kThreads)
    add_rows(const std::byte* sums, int64_t stride, WaveRows rows, Mat<double> y) {
  const int c = 2 * column();
  if (c >= y.columns) return;
  const auto s = reinterpret_cast<const Two<T>*>(sums + blockIdx.y * stride)[c / 2];
  double* to = y.row(rows.at[blockIdx.y]) + c;
  to[0] = to[0] + widen(s.first);
  if (c + 1 < y.columns) to[1] = to[1] + widen(s.second);
}
auto add_rows_of(WireType type) {
  switch (type) {
    case WireType::float32: return &add_rows<float>;
    case WireType::bf16: return &add_rows<bf16>;
    default: return &add_rows<double>;
  }
}

// What was filled before may still be read, until the stream is done.
std::byte* take_room(Staging& staging, size_t bytes, simt::Stream stream) {
  if (staging.used + bytes > staging.bytes) {
    simt::finish(stream);
    staging.used = 0;
  }
  staging.used += bytes;
  return staging.at + staging.used - bytes;
}

}  // namespace

void CudaDevice::route(const RouteJob& job) {
  if (!job.logits.rows) return;
  RouteArguments j{.logits = job.logits,
                   .bias = nullptr,
                   .experts = job.experts,
                   .top_k = job.top_k,
                   .groups = 1,
                   .kept_groups = 1,
                   .normalise = job.normalise,
                   .least = 0.0f,
                   .scale = 1.0f,
                   .ids = job.ids,
                   .weights = job.weights,
                   .shared_gate = job.shared_gate};
  if (const SigmoidRouting* s = job.sigmoid) {
    j.bias = s->bias;
    j.groups = s->groups, j.kept_groups = s->kept_groups;
    j.normalise = s->normalise;
    j.least = 1e-20f, j.scale = s->scale;
  }
  const auto shared = static_cast<size_t>(j.experts + j.groups + 2 * j.top_k) * sizeof(uint32_t);
  simt::launch(dim3(static_cast<unsigned>(job.logits.rows)), dim3(32), shared, stream_, route_row, j);
}

// The host's memory need not be pinned, so rows are copied there, not written by a kernel; scattered ones are brought
// together first. A wave's copy is done before the next one's rows are gathered: they are in one stream.
void CudaDevice::rows_out(const Mat<bf16>& x, std::span<const int32_t> rows, const Mat<bf16>& host) {
  const size_t bytes = static_cast<size_t>(x.columns) * sizeof(bf16),
               stride = static_cast<size_t>(host.ld) * sizeof(bf16);
  const auto copy_out = [&](const Mat<bf16>& from, int64_t first, size_t count) {
    simt::copy_rows(host.row(first), stride, from.at, static_cast<size_t>(from.ld) * sizeof(bf16), bytes, count,
                    stream_);
  };
  const auto gap = [](int32_t a, int32_t b) { return b != a + 1; };
  if (rows.empty()) return;
  if (std::adjacent_find(rows.begin(), rows.end(), gap) == rows.end())
    return copy_out(x.part(rows[0], static_cast<int>(rows.size())), 0, rows.size());
  const int64_t ld = round_up(x.columns, kTileK);
  in_waves(rows, kWaveRows, [&](int64_t first, int count, const WaveRows& of) {
    const Mat<bf16> leaving{scratch_.leaving, ld, count, x.columns};
    simt::launch(row_grid(ceil_div(x.columns, 8), count), dim3(kThreads), 0, stream_, gather_rows, x, of, leaving);
    copy_out(leaving, first, static_cast<size_t>(count));
  });
}

// The host's memory is free again at once.
void CudaDevice::sums_in(const WireSums& host, std::span<const int32_t> rows, const Mat<double>& y) {
  const size_t bytes = static_cast<size_t>(y.columns) * wire_bytes(host.type);
  const int64_t step = host.stride * static_cast<int64_t>(wire_bytes(host.type)),
                stride = round_up(static_cast<int64_t>(bytes), 64);
  const size_t most = std::min<size_t>(kWaveRows, host_.sums.bytes / static_cast<size_t>(stride));
  in_waves(rows, most, [&](int64_t first, int count, const WaveRows& of) {
    std::byte* staged = take_room(host_.sums, static_cast<size_t>(count * stride), stream_);
    in_lines(pool_, count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) std::memcpy(staged + r * stride, host.at + (first + r) * step, bytes);
    });
    simt::launch(row_grid(ceil_div(y.columns, 2), count), dim3(kThreads), 0, stream_, add_rows_of(host.type), staged,
                 stride, of, y);
  });
}

}  // namespace kt::SIMT_TABLE
