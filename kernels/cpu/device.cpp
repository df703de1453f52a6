#include "kernels/cpu/device.h"
#include "kernels/in_lines.h"

#include <algorithm>
#include <cstring>

namespace kt {
namespace {

CpuScratch lay_out(Layout& layout, std::byte* memory, const StepShape& shape, int threads) {
  CpuScratch s;
  Layout attention(memory), experts(memory), inputs(memory);
  const int most = shape.latent.heads ? kRunQueries : kQueriesPerTask;
  const int n = shape.latent.heads ? shape.latent.kv_rank : shape.attention.head_dim;
  if (n) s.spans = lay_out_spans(attention, threads, most, n);
  if (shape.latent.heads) s.latent = lay_out_latent(attention, shape, threads);
  if (shape.experts.columns) s.experts = lay_out_experts(experts, shape.experts);
  if (shape.int8_columns) s.inputs = lay_out_quantised(inputs, shape.rows, shape.int8_columns);
  layout.array<std::byte>(static_cast<int64_t>(std::max({attention.bytes(), experts.bytes(), inputs.bytes()})));
  return s;
}

// Runs of queries: the slices' tokens for every key-value head, in tasks of some queries.
void cut_runs(const Batch& batch, const GroupedHeads& heads, std::vector<HeadRun>& runs) {
  runs.clear();
  const int group = heads.group();
  for (size_t s = 0; s < batch.slices.size(); ++s)
    for (int h = 0; h < heads.kv_heads; ++h)
      for (int q = 0, all = batch.slices[s].count * group; q < all; q += kQueriesPerTask) {
        const int end = std::min(all, q + kQueriesPerTask);
        HeadRun run{{.queries = end - q, .spans = (batch.slices[s].first + (end - 1) / group) / kKvSpan + 1},
                    static_cast<int>(s),
                    h,
                    q};
        runs.push_back(run);
      }
}

}  // namespace

Buffer CpuDevice::take(size_t bytes) { return Buffer(bytes, numa_node_, k_.pool); }
void CpuDevice::write(void* to, const void* host, size_t bytes) {
  if (to != host) std::memcpy(to, host, bytes);
}
void CpuDevice::copy(void* to, const void* from, size_t bytes) { std::memcpy(to, from, bytes); }
void CpuDevice::clear(void* at, size_t bytes) {
  in_lines(k_.pool, static_cast<int64_t>(bytes), 1 << 20, [&](int64_t begin, int64_t end) {
    std::memset(static_cast<std::byte*>(at) + begin, 0, static_cast<size_t>(end - begin));
  });
}

void CpuDevice::reserve(const StepShape& largest) {
  shape_ = largest;
  memory_ = Buffer();  // first: there may be no room for both
  memory_ = take(cpu_reserve_bytes(largest, k_.pool.size()));
  Layout layout;
  scratch_ = lay_out(layout, memory_.bytes(), largest, k_.pool.size());
}

size_t cpu_reserve_bytes(const StepShape& largest, int threads) {
  Layout layout;
  lay_out(layout, nullptr, largest, threads);
  return layout.bytes();
}

void CpuDevice::begin(Batch& batch) {
  batch_ = &batch;
  rotary_angles(batch, k_.pool);
  if (shape_.attention.heads) cut_runs(batch, shape_.attention, head_runs_);
}

std::unique_ptr<Device> make_cpu_device(const Ops& ops, ThreadPool& pool, int numa_node) {
  return std::make_unique<CpuDevice>(ops, pool, numa_node);
}

}  // namespace kt
