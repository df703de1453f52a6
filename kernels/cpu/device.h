#pragma once

#include <vector>

#include "kernels/context.h"
#include "kernels/cpu/spans.h"
#include "kernels/device.h"

namespace kt {

// A thread's own memory in latent attention: of the absorbed form, and in the same place of the expanded one (see
// HeadSlot in device_latent_expand.cpp), for a thread is at work on one at a time.
struct LatentSlot {
  bf16* packed;   // cached rows of one span as a matrix
  float* scores;  // of a run and a span; or rows of one head; or of index heads and a page
  bf16* weights;  // softmax of the scores; or rows of one head
};

struct LatentScratch {
  std::byte* slots = nullptr;  // one a thread
  size_t slot_bytes = 0;
  // Keys and values of a sequence as matrices, span by span of kKvSpan positions: (kKvSpan, cached_dim), then the
  // latents transposed, (kv_rank, kKvSpan).
  bf16* packed = nullptr;
  float* index_scores = nullptr;  // of as many rows at a time as fit
  int64_t index_room = 0;         // of them
  uint32_t* ranks = nullptr;      // of top_keys: index_room for each thread
};

// Rows as int8 with the scales of their groups; room for groups of one tile.
struct QuantScratch {
  int8_t* q = nullptr;
  QuantGroup* groups = nullptr;
};

// Routed rows grouped by expert.
struct ExpertScratch {
  struct Group {
    int expert, begin, count;  // rows [begin, begin + count) of the grouped arrays
  };
  Group* groups = nullptr;  // experts with rows, ascending
  int* fill = nullptr;      // per expert
  int32_t* row = nullptr;   // grouped: row of the batch
  float* weight = nullptr;  // grouped
  bf16* activations = nullptr;
  QuantScratch x, quantised;  // rows of the batch; activations
};

// Attention, experts and products take turns: they share the memory.
struct CpuScratch {
  QuantScratch inputs;
  SpanRoom spans;
  LatentScratch latent;
  ExpertScratch experts;
};

// Some queries of one slice that share a key-value head; from query `first` on: token * group + head in group.
struct HeadRun : QueryRun {
  int slice = 0, kv_head = 0, first = 0;
};
// Queries [begin, begin + queries) = row * heads + head of a range of rows; either all of one row, whose keys are
// picked, or of rows of one sequence that see all positions up to their own.
struct LatentRun : QueryRun {
  int begin = 0;
  const int32_t* blocks = nullptr;
  const int32_t* picked = nullptr;  // null: all
  int packed = 0;                   // keys of the sequence that lie packed already; 0: the run packs its own
};
// Scores of some pages of a row's keys.
struct IndexPiece {
  int row = 0, first = 0, last = 0;  // pages
  float* scores = nullptr;
};

// The loops over Ops, split over the pool's threads. How a job is split shows in no bit.
class CpuDevice final : public Device {
 public:
  CpuDevice(const Ops& ops, ThreadPool& pool, int numa_node) : k_{ops, pool}, numa_node_(numa_node) {}

  Buffer take(size_t bytes) override;
  Buffer take_host(size_t bytes) override { return take(bytes); }
  void adopt(void*, size_t) override {}
  void write(void* to, const void* host, size_t bytes) override;
  std::span<std::byte> window(std::byte* to, size_t bytes) override { return {to, bytes}; }
  void copy(void* to, const void* from, size_t bytes) override;
  void clear(void* at, size_t bytes) override;
  const float* read(const Mat<float>& x) override { return x.at; }
  void wait() override {}
  void reserve(const StepShape& largest) override;
  ThreadPool& host_threads() override { return k_.pool; }
  const Buffer& reserved() const { return memory_; }

  void begin(Batch& batch) override;

  void embed(const Mat<float>& x, const std::function<void(int row, bf16* to)>& read) override;
  void norm(const Mat<float>& x, const float* w, float eps, const Mat<bf16>& h, const Mat<double>& y) override;
  void add_norm(const Mat<float>& x, const Mat<double>& y, const float* w, float eps, const Mat<bf16>& h) override;
  void last_norm(const Mat<float>& x, const Mat<double>& y, const float* w, float eps, const Mat<bf16>& h) override;
  void linear(const Mat<bf16>& x, std::initializer_list<Product> products) override;
  void linear_sum(const Mat<bf16>& x, const PackedMatrix& w, int slice, const float* scale,
                  const Mat<double>& y) override;
  void swiglu(const Mat<bf16>& x, const PackedMatrix& gate_up, const Mat<bf16>& h) override;

  void heads(const HeadsJob& job) override;
  void attend(const GroupedHeads& heads, const Mat<float>& rows, const Pages& pages, const Mat<bf16>& out) override;

  void conv(const DeltaHeads& heads, const Mat<float>& rows, const float* w, const Slots& history,
            const Mat<float>& convolved) override;
  void delta_inputs(const DeltaHeads& heads, const Mat<float>& convolved, const Mat<float>& gates, const float* decay,
                    const float* dt_bias) override;
  void delta_rule(const DeltaHeads& heads, const Mat<float>& convolved, const Mat<float>& gates, const Slots& state,
                  const Mat<float>& out) override;
  void gated_norm(const DeltaHeads& heads, const Mat<float>& x, const Mat<float>& rows, const float* w, float eps,
                  const Mat<bf16>& out) override;

  void latents(const LatentLayer& l, RowRange rows, const LatentRows& projected, const Mat<bf16>& q_latent) override;
  void absorb(const LatentLayer& l, RowRange rows, const Mat<float>& q, const Mat<bf16>& query) override;
  void pick(const LatentLayer& l, RowRange rows, const Mat<float>& q, const Mat<bf16>& q16, const Mat<float>& weights,
            const Mat<int32_t>& picked) override;
  void attend_latents(const LatentLayer& l, RowRange rows, const Mat<bf16>& query, const Mat<int32_t>& picked,
                      const Mat<bf16>& sums) override;
  void value_up(const LatentLayer& l, const Mat<bf16>& sums, const Mat<bf16>& out) override;
  void attend_expanded(const LatentLayer& l, RowRange rows, const Mat<bf16>& q_latent, const Mat<bf16>& out) override;

  void route(const RouteJob& job) override;
  double experts(const ExpertsJob& job) override;
  void rows_out(const Mat<bf16>& x, std::span<const int32_t> rows, const Mat<bf16>& host) override;
  void sums_in(const WireSums& host, std::span<const int32_t> rows, const Mat<double>& y) override;

 private:
  KernelContext k_;
  int numa_node_;
  StepShape shape_;
  Buffer memory_;
  CpuScratch scratch_;
  const Batch* batch_ = nullptr;
  // Of grouped heads, the same in every layer of a step; and of one call. Kept, so that steps allocate nothing.
  std::vector<HeadRun> head_runs_;
  std::vector<LatentRun> latent_runs_, lone_runs_;
  std::vector<IndexPiece> pieces_, scored_;
};

// Rows as products with w take them: also quantised, into `room`, where w's format has 8-bit activations.
Rows input_rows(const KernelContext& k, const Mat<bf16>& x, const PackedMatrix& w, const QuantScratch& room);

// Parts of CpuScratch.
QuantScratch lay_out_quantised(Layout& layout, int64_t rows, int64_t columns);
LatentScratch lay_out_latent(Layout& layout, const StepShape& shape, int threads);
ExpertScratch lay_out_experts(Layout& layout, const ExpertShape& shape);
size_t head_slot_bytes(const LatentHeads& heads, int rows);  // of `rows` rows in expanded form

inline constexpr int kRunQueries = 128;     // of latent attention, at most
inline constexpr int kQueriesPerTask = 32;  // of one sequence and one key-value head

inline void to_bf16_row(const Ops& ops, const float* x, int64_t n, bf16* out) {
  ops.gate_output(x, nullptr, static_cast<int>(n), out);
}

}  // namespace kt
