// Rows of a step: embedding and norms.

#include <algorithm>

#include "kernels/cuda/arithmetic.h"
#include "kernels/cuda/device.h"
#include "kernels/in_lines.h"

namespace kt::SIMT_TABLE {
namespace {

constexpr int kWidenThreads = 256, kNormThreads = 512;
constexpr size_t kMostShared = 96 * 1024;  // of a block, on every device

// A thread has four elements of a row.
__global__ void __launch_bounds__(kWidenThreads) widen_kernel(Mat<const bf16> from, Mat<float> to) {
  const int quads = static_cast<int>(ceil_div(to.columns, 4));
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kWidenThreads + threadIdx.x;
  if (i >= static_cast<int64_t>(to.rows) * quads) return;
  const int64_t row = i / quads;
  const int column = static_cast<int>(i % quads) * 4;
  const uint2 x = *reinterpret_cast<const uint2*>(from.row(row) + column);
  float* out = to.row(row) + column;
  const float wide[] = {__uint_as_float(x.x << 16), __uint_as_float(x.x & 0xffff0000u), __uint_as_float(x.y << 16),
                        __uint_as_float(x.y & 0xffff0000u)};
  for (int j = 0; j < 4; ++j)
    if (column + j < to.columns) out[j] = wide[j];
}

struct NormJob {
  Mat<float> x;
  Mat<double> y;
  const float* w;
  float eps;
  Mat<bf16> h;
  const int32_t* rows;    // of x, for each of h; null: the same
  bool add, clear, kept;  // kept: a row's sums in shared memory
};

// A block has a row. Threads share the columns; sixteen of them sum the squares.
__global__ void __launch_bounds__(kNormThreads) norm_kernel(NormJob job) {
  struct Scale {
    float value;
  };
  auto& scale = simt::shared<Scale>();
  const int thread = static_cast<int>(threadIdx.x), n = job.x.columns;
  const int64_t r = job.rows ? job.rows[blockIdx.x] : static_cast<int64_t>(blockIdx.x);
  float* x = job.x.row(r);
  double* y = job.y.row(r);
  float* sums = job.kept ? simt::dynamic_shared<float>() : x;
  if (job.add) {
    for (int i = thread; i < n; i += kNormThreads) sums[i] = x[i] = x[i] + static_cast<float>(y[i]);
  } else if (job.kept) {
    for (int i = thread; i < n; i += kNormThreads) sums[i] = x[i];
  }
  if (job.clear)
    for (int64_t i = thread; i < job.y.ld; i += kNormThreads) y[i] = 0.0;
  __syncthreads();

  if (thread < 32) {
    float lane = 0.0f;
#pragma unroll 8
    for (int i = thread < 16 ? thread : n; i < n; i += 16) lane = fmaf(sums[i], sums[i], lane);
    lane = fold16(lane);
    if (thread == 0) scale.value = 1.0f / sqrtf(lane / static_cast<float>(n) + job.eps);
  }
  __syncthreads();

  bf16* h = job.h.row(blockIdx.x);
  for (int i = thread; i < n; i += kNormThreads) h[i] = to_bf16(sums[i] * scale.value * job.w[i]);
  for (int i = n + thread; i < static_cast<int>(round_up(n, 32)); i += kNormThreads) h[i] = 0;
}

void start(NormJob job, int rows, simt::Stream stream) {
  if (!rows) return;
  const size_t row_bytes = static_cast<size_t>(job.x.columns) * sizeof(float);
  job.kept = row_bytes <= kMostShared;
  simt::launch(dim3(static_cast<unsigned>(rows)), dim3(kNormThreads), job.kept ? row_bytes : 0, stream, norm_kernel,
               job);
}

}  // namespace

// The device reads the host's memory, a piece of it at a time.
void CudaDevice::embed(const Mat<float>& x, const std::function<void(int row, bf16* to)>& read) {
  const int64_t ld = round_up(x.columns, 4);
  const int most = static_cast<int>(std::max<int64_t>(1, kEmbeddedBytes / (ld * static_cast<int64_t>(sizeof(bf16)))));
  for (int first = 0; first < x.rows; first += most) {
    const int rows = std::min(most, x.rows - first);
    const Mat<bf16> piece{host_.embedded, ld, rows, x.columns};
    wait();  // for the last piece
    in_lines(pool_, rows, 1, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) read(static_cast<int>(first + r), piece.row(r));
    });
    const int64_t blocks = ceil_div(rows * ceil_div(x.columns, 4), kWidenThreads);
    simt::launch(dim3(static_cast<unsigned>(blocks)), dim3(kWidenThreads), 0, stream_, widen_kernel,
                 Mat<const bf16>{piece.at, piece.ld, rows, x.columns}, x.part(first, rows));
  }
}

void CudaDevice::norm(const Mat<float>& x, const float* w, float eps, const Mat<bf16>& h, const Mat<double>& y) {
  start({.x = x, .y = y, .w = w, .eps = eps, .h = h, .clear = true}, x.rows, stream_);
}

void CudaDevice::add_norm(const Mat<float>& x, const Mat<double>& y, const float* w, float eps, const Mat<bf16>& h) {
  start({.x = x, .y = y, .w = w, .eps = eps, .h = h, .add = true, .clear = true}, x.rows, stream_);
}

void CudaDevice::last_norm(const Mat<float>& x, const Mat<double>& y, const float* w, float eps, const Mat<bf16>& h) {
  start({.x = x, .y = y, .w = w, .eps = eps, .h = h, .rows = batch_.logit_rows, .add = true},
        static_cast<int>(host_batch_->logit_rows.size()), stream_);
}

}  // namespace kt::SIMT_TABLE
