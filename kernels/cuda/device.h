#pragma once

#include "kernels/cuda/scratch.h"
#include "kernels/device.h"
#include "kernels/nccl.h"
#include "kernels/simt/simt.h"

// The device on GPUs: each operation a few launches into one stream. Its files are compiled twice, by nvcc into
// kt::cuda and by the C++ compiler into kt::cuda_emulated (kernels/simt/simt.h).
//
// Sums have the order of kernels/cpu/ref.cpp and only fused multiply-adds, sums, products and quotients are used, so
// that every operation has ref's bits: where an expert is computed shows in no bit. But for products with bf16 rows
// where StepShape::tensor_cores is set: they have an order of their own (tensor.h), for any number of rows.

namespace kt::SIMT_TABLE {

// A Batch in the device's memory.
struct DeviceBatch {
  const BatchSlice* slices = nullptr;
  const int32_t *blocks = nullptr, *slice_of = nullptr, *positions = nullptr, *logit_rows = nullptr;
  const int64_t* places = nullptr;
  const float *cosines = nullptr, *sines = nullptr;  // (rows, half)
  int rows = 0, half = 0;
};

class CudaDevice final : public Device {
 public:
  explicit CudaDevice(ThreadPool& pool);
  ~CudaDevice() override;

  Buffer take(size_t bytes) override;
  Buffer take_host(size_t bytes) override;
  void adopt(void* host, size_t bytes) override;
  void write(void* to, const void* host, size_t bytes) override;
  std::span<std::byte> window(std::byte* to, size_t bytes) override;
  void copy(void* to, const void* from, size_t bytes) override;
  void clear(void* at, size_t bytes) override;
  const float* read(const Mat<float>& x) override;
  void wait() override;
  void reserve(const StepShape& largest) override;
  ThreadPool& host_threads() override { return pool_; }

  void begin(Batch& batch) override;

  // rows.cu
  void embed(const Mat<float>& x, const std::function<void(int row, bf16* to)>& read) override;
  void norm(const Mat<float>& x, const float* w, float eps, const Mat<bf16>& h, const Mat<double>& y) override;
  void add_norm(const Mat<float>& x, const Mat<double>& y, const float* w, float eps, const Mat<bf16>& h) override;
  void last_norm(const Mat<float>& x, const Mat<double>& y, const float* w, float eps, const Mat<bf16>& h) override;
  // products.cu
  void linear(const Mat<bf16>& x, std::initializer_list<Product> products) override;
  void linear_sum(const Mat<bf16>& x, const PackedMatrix& w, int slice, const float* scale,
                  const Mat<double>& y) override;
  void swiglu(const Mat<bf16>& x, const PackedMatrix& gate_up, const Mat<bf16>& h) override;
  // attention.cu
  void heads(const HeadsJob& job) override;
  void attend(const GroupedHeads& heads, const Mat<float>& rows, const Pages& pages, const Mat<bf16>& out) override;
  // delta.cu
  void conv(const DeltaHeads& heads, const Mat<float>& rows, const float* w, const Slots& history,
            const Mat<float>& convolved) override;
  void delta_inputs(const DeltaHeads& heads, const Mat<float>& convolved, const Mat<float>& gates, const float* decay,
                    const float* dt_bias) override;
  void delta_rule(const DeltaHeads& heads, const Mat<float>& convolved, const Mat<float>& gates, const Slots& state,
                  const Mat<float>& out) override;
  void gated_norm(const DeltaHeads& heads, const Mat<float>& x, const Mat<float>& rows, const float* w, float eps,
                  const Mat<bf16>& out) override;
  // latent.cu
  void latents(const LatentLayer& l, RowRange rows, const LatentRows& projected, const Mat<bf16>& q_latent) override;
  void absorb(const LatentLayer& l, RowRange rows, const Mat<float>& q, const Mat<bf16>& query) override;
  void pick(const LatentLayer& l, RowRange rows, const Mat<float>& q, const Mat<bf16>& q16, const Mat<float>& weights,
            const Mat<int32_t>& picked) override;
  void attend_latents(const LatentLayer& l, RowRange rows, const Mat<bf16>& query, const Mat<int32_t>& picked,
                      const Mat<bf16>& sums) override;
  void value_up(const LatentLayer& l, const Mat<bf16>& sums, const Mat<bf16>& out) override;
  void attend_expanded(const LatentLayer& l, RowRange rows, const Mat<bf16>& q_latent, const Mat<bf16>& out) override;
  // experts.cu
  double experts(const ExpertsJob& job) override;
  // routing.cu
  void route(const RouteJob& job) override;
  void rows_out(const Mat<bf16>& x, std::span<const int32_t> rows, const Mat<bf16>& host) override;
  void sums_in(const WireSums& host, std::span<const int32_t> rows, const Mat<double>& y) override;
  // device.cu
  void join(std::unique_ptr<Nccl> ranks) override { ranks_ = std::move(ranks); }
  void sum(std::span<double> values) override { ranks_->sum(values, stream_); }

 private:
  ThreadPool& pool_;
  simt::Stream stream_;
  std::unique_ptr<Nccl> ranks_;  // null: this one adds with no other
  StepShape shape_;
  Buffer memory_, pinned_, window_;
  CudaScratch scratch_;
  PinnedScratch host_;
  Buffer batch_memory_, batch_staging_;
  DeviceBatch batch_;
  const Batch* host_batch_ = nullptr;
  Buffer read_;  // what read() returns
  std::vector<std::span<std::byte>> adopted_;
};

}  // namespace kt::SIMT_TABLE
