// Products with packed matrices of every format.

#include "kernels/cuda/device.h"
#include "kernels/cuda/tensor.h"

#include <algorithm>

namespace kt::SIMT_TABLE {
namespace {

// A warp has a group of a row.
__global__ void quantise_rows(const bf16* x, int64_t ld, int rows, int tiles, int group, QuantisedRoom room) {
  const int groups = (tiles + group - 1) / group, lane = static_cast<int>(threadIdx.x % 32);
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / 32, r = i / groups;
  if (r >= rows) return;
  const int from = static_cast<int>(i % groups) * group * kTileK;
  const int to = from + group * kTileK < tiles * kTileK ? from + group * kTileK : tiles * kTileK;
  const bf16* in = x + r * ld;
  int8_t* q = room.q + r * tiles * kTileK;

  float largest = 0.0f;
  for (int k = from + lane; k < to; k += 32) largest = fmaxf(largest, fabsf(to_float(in[k])));
  for (int bits = 16; bits; bits /= 2) largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, bits));
  const float inverse = largest > 0.0f ? 127.0f / largest : 0.0f;
  int sum = 0;
  for (int k = from + lane; k < to; k += 32) {
    const auto v = static_cast<int8_t>(rintf(to_float(in[k]) * inverse));
    q[k] = v;
    sum += v;
  }
  for (int bits = 16; bits; bits /= 2) sum += __shfl_xor_sync(~0u, sum, bits);
  if (!lane) room.groups[i] = {largest / 127.0f, sum};
}

// Rows first, first + 1, ... of `rows`; the last one again where there are no more.
template <int kRows>
__device__ void rows_from(int first, int count, const int32_t* index, uint32_t (&row)[kRows]) {
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int i = first + (r < count ? r : count - 1);
    row[r] = static_cast<uint32_t>(index ? index[i] : i);
  }
}

template <class Sums>
__device__ void store(const Sums& sums, const LinearJob::Matrix& m, int panel, int first, int count) {
#pragma unroll
  for (int i = 0; i < Sums::kOwned; ++i) {
    const int o = sums.owned(i);
    if (o < count * kPanel) m.out[(first + o / kPanel) * m.ld + panel * kPanel + o % kPanel] = sums.sum[i];
  }
}

// A block has a panel and few rows; a thread a quarter of a tile at a time, then an output of a row.
template <class F, Form kForm>
__global__ void __launch_bounds__(block_threads(kForm), blocks_at_once(kForm)) linear_few(LinearJob job) {
  int panel = static_cast<int>(blockIdx.y);
  const LinearJob::Matrix& m = job.of_panel(panel);
  const int most = block_rows(kForm), first = static_cast<int>(blockIdx.x) * most;
  const int count = job.rows - first < most ? job.rows - first : most;
  with_rows<kForm>(count, [&](auto rows) {
    uint32_t row[rows.value];
    rows_from(first, count, nullptr, row);
    FewSums<F, rows.value, 1> sums{{static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x)}};
    sums.run(m.w, m.w.panel(panel), job.x, row, room<F, kForm>(), 0);
    store(sums, m, panel, first, count);
  });
}

// What a warp has of a block for many rows.
struct WarpPart {
  int warp = static_cast<int>(threadIdx.x / 32);
  int panel = static_cast<int>(blockIdx.y) * 2 + warp / 2, rows_at = warp % 2 * 8;
  Team team{static_cast<int>(threadIdx.x % 32), 32};

  __device__ int rows(int of_block) const { return of_block - rows_at < 8 ? of_block - rows_at : 8; }
};
template <class F>
__device__ uint32_t* warp_room(int warp) {
  return room<F, Form::kMany>() + warp * ManySums<F>::kWords;
}

// A block has two panels and sixteen rows, a warp one of the panels and eight of the rows; a thread a quarter of a tile
// at a time, then four outputs.
template <class F>
__global__ void __launch_bounds__(block_threads(Form::kMany), blocks_at_once(Form::kMany)) linear_many(LinearJob job) {
  WarpPart part;
  const int first = static_cast<int>(blockIdx.x) * block_rows(Form::kMany), count = part.rows(job.rows - first);
  if (part.panel >= job.panels || count <= 0) return;
  const LinearJob::Matrix& m = job.of_panel(part.panel);
  uint32_t row[8];
  rows_from(first + part.rows_at, count, nullptr, row);
  ManySums<F> sums{part.team};
  sums.run(m.w, m.w.panel(part.panel), job.x, row, warp_room<F>(part.warp), 0);
  store(sums, m, part.panel, first + part.rows_at, count);
}

__device__ bf16 gated(uint32_t gate, float up) { return to_bf16(silu(__uint_as_float(gate)) * up); }

// A block has a panel of the gate, the one of the up projection and few rows, its halves one panel each; a thread a
// quarter of a tile at a time, then an output of a row, or two.
template <class F, Form kForm>
__global__ void __launch_bounds__(block_threads(kForm), blocks_at_once(kForm)) swiglu_few(SwigluJob job) {
  const RowTask task = task_of(job, kForm);
  const Weights w = task.gate_up ? job.gate_up.at(task.gate_up) : job.gate_up;
  const int threads = static_cast<int>(blockDim.x / 2), half = static_cast<int>(threadIdx.x) / threads;
  const int panel = static_cast<int>(blockIdx.y);
  with_rows<kForm>(task.count, [&](auto rows) {
    uint32_t row[rows.value];
    rows_from(task.first, task.count, job.row, row);
    using Sums = FewSums<F, rows.value, 2>;
    Sums sums{{static_cast<int>(threadIdx.x) % threads, threads}};
    uint32_t* gates = room<F, kForm>();
    sums.run(w, w.panel(2 * panel + half), job.x, row, gates + half * Sums::kWords, 0);
#pragma unroll
    for (int i = 0; i < Sums::kOwned; ++i)
      if (!half && sums.owned(i) < Sums::kOutputs) gates[sums.owned(i)] = __float_as_uint(sums.sum[i]);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < Sums::kOwned; ++i) {
      const int o = sums.owned(i);
      if (half && o < task.count * kPanel)
        job.h[(task.at + o / kPanel) * job.ldh + panel * kPanel + o % kPanel] = gated(gates[o], sums.sum[i]);
    }
  });
}

// A block has a panel of the gate, the one of the up projection and sixteen rows, a warp one of the panels and eight of
// the rows; a thread a quarter of a tile at a time, then four outputs.
template <class F>
__global__ void __launch_bounds__(block_threads(Form::kMany), blocks_at_once(Form::kMany)) swiglu_many(SwigluJob job) {
  const RowTask task = task_of(job, Form::kMany);
  const Weights w = task.gate_up ? job.gate_up.at(task.gate_up) : job.gate_up;
  const WarpPart part;
  const int count = part.rows(task.count);
  ManySums<F> sums{part.team};
  if (count > 0) {
    uint32_t row[8];
    rows_from(task.first + part.rows_at, count, job.row, row);
    sums.run(w, w.panel(part.panel), job.x, row, warp_room<F>(part.warp), 0);
  }
  uint32_t* gates = warp_room<F>(part.warp % 2);
#pragma unroll
  for (int i = 0; i < ManySums<F>::kOwned; ++i)
    if (part.warp < 2) gates[sums.owned(i)] = __float_as_uint(sums.sum[i]);
  __syncthreads();
#pragma unroll
  for (int i = 0; i < ManySums<F>::kOwned; ++i) {
    const int o = sums.owned(i);
    if (part.warp >= 2 && o < count * kPanel)
      job.h[(task.at + part.rows_at + o / kPanel) * job.ldh + blockIdx.y * kPanel + o % kPanel] =
          gated(gates[o], sums.sum[i]);
  }
}

template <class Sums>
__device__ void take_factors(Sums& sums, const SumJob& job, int64_t first, int count) {
#pragma unroll
  for (int i = 0; i < Sums::kOwned; ++i)
    sums.factor[i] = job.scale && sums.owned(i) < count * kPanel ? job.scale[first + sums.owned(i) / kPanel] : 1.0f;
}
// Sums on the grid are exact in every order; rows of several blocks may go to one row of y.
template <class Sums>
__device__ void add_to_rows(const Sums& sums, const SumJob& job, int panel, int64_t first, int count) {
#pragma unroll
  for (int i = 0; i < Sums::kOwned; ++i) {
    const int o = sums.owned(i);
    if (o >= count * kPanel) continue;
    const int64_t r = first + o / kPanel;
    double* to = job.y + (job.row ? job.row[r] : r) * job.ldy + panel * kPanel + o % kPanel;
    if (job.tasks)
      atomicAdd(to, sums.grid[i].value());
    else
      *to = *to + sums.grid[i].value();
  }
}

// As linear_few.
template <class F, Form kForm>
__global__ void __launch_bounds__(block_threads(kForm), blocks_at_once(kForm)) sum_few(SumJob job) {
  const RowTask task = task_of(job, kForm);
  const Weights w = task.down ? job.w.at(task.down) : job.w;
  const int panel = static_cast<int>(blockIdx.y);
  with_rows<kForm>(task.count, [&](auto rows) {
    uint32_t row[rows.value];
    rows_from(task.at, task.count, nullptr, row);
    FewSums<F, rows.value, 1> sums{{static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x)}};
    take_factors(sums, job, task.first, task.count);
    sums.run(w, w.panel(panel), job.x, row, room<F, kForm>(), job.slice);
    add_to_rows(sums, job, panel, task.first, task.count);
  });
}

// As linear_many.
template <class F>
__global__ void __launch_bounds__(block_threads(Form::kMany), blocks_at_once(Form::kMany)) sum_many(SumJob job) {
  const RowTask task = task_of(job, Form::kMany);
  const Weights w = task.down ? job.w.at(task.down) : job.w;
  const WarpPart part;
  const int count = part.rows(task.count);
  if (part.panel >= w.panels || count <= 0) return;
  uint32_t row[8];
  rows_from(task.at + part.rows_at, count, nullptr, row);
  ManySums<F> sums{part.team};
  take_factors(sums, job, task.first + part.rows_at, count);
  sums.run(w, w.panel(part.panel), job.x, row, warp_room<F>(part.warp), job.slice);
  add_to_rows(sums, job, part.panel, task.first + part.rows_at, count);
}

int row_blocks(Form form, int rows) { return static_cast<int>(ceil_div(rows, block_rows(form))); }

// Calls run(type of the format, std::integral_constant of the form), but for kTensor, which is in tensor.cu.
template <class Run>
void with_kernel(Method method, Form form, const Run& run) {
  with_format(method, [&](auto f) {
    if (form == Form::kFour) run(f, std::integral_constant<Form, Form::kFour>());
    if (form == Form::kEight) run(f, std::integral_constant<Form, Form::kEight>());
    if constexpr (!decltype(f)::kTensor)
      if (form == Form::kMany) run(f, std::integral_constant<Form, Form::kMany>());
  });
}

// Threads that share `panels` panels: a warp takes eight tiles at once. Each output needs a thread.
dim3 few_threads(Form form, int panels, int tiles) {
  const int most = block_threads(form), least = form == Form::kEight ? most : 64 * panels;
  return dim3(std::clamp(static_cast<int>(ceil_div(tiles, 8)) * 32 * panels, least, most));
}
// Blocks of so many panels each.
dim3 grid_of(int row_blocks, int panels, int each) {
  return dim3(static_cast<unsigned>(row_blocks), static_cast<unsigned>(ceil_div(panels, each)));
}

void launch_linear(Method method, const LinearJob& job, simt::Stream stream) {
  const Form form = method.form(job.rows);
  if (form == Form::kTensor) return launch_linear_tensor(method.format, job, stream);
  int tiles = 0;
  for (int i = 0; i < job.count; ++i) tiles = std::max(tiles, job.matrices[i].w.tiles);
  const dim3 grid = grid_of(row_blocks(form, job.rows), job.panels, form == Form::kMany ? 2 : 1);
  with_kernel(method, form, [&](auto f, auto in_form) {
    using F = decltype(f);
    if constexpr (in_form() == Form::kMany)
      simt::launch(grid, dim3(block_threads(form)), 0, stream, linear_many<F>, job);
    else
      simt::launch(grid, few_threads(form, 1, tiles), 0, stream, linear_few<F, in_form()>, job);
  });
}

}  // namespace

void launch_swiglu(Method method, Form form, const SwigluJob& job, int blocks, simt::Stream stream) {
  if (form == Form::kTensor) return launch_swiglu_tensor(method.format, job, blocks, stream);
  const dim3 grid = grid_of(blocks, job.panels, 1);
  with_kernel(method, form, [&](auto f, auto in_form) {
    using F = decltype(f);
    if constexpr (in_form() == Form::kMany)
      simt::launch(grid, dim3(block_threads(form)), 0, stream, swiglu_many<F>, job);
    else
      simt::launch(grid, few_threads(form, 2, job.gate_up.tiles), 0, stream, swiglu_few<F, in_form()>, job);
  });
}

void launch_sum(Method method, Form form, const SumJob& job, int blocks, simt::Stream stream) {
  if (form == Form::kTensor) return launch_sum_tensor(method.format, job, blocks, stream);
  const dim3 grid = grid_of(blocks, job.w.panels, form == Form::kMany ? 2 : 1);
  with_kernel(method, form, [&](auto f, auto in_form) {
    using F = decltype(f);
    if constexpr (in_form() == Form::kMany)
      simt::launch(grid, dim3(block_threads(form)), 0, stream, sum_many<F>, job);
    else
      simt::launch(grid, few_threads(form, 1, job.w.tiles), 0, stream, sum_few<F, in_form()>, job);
  });
}

Inputs input_rows(const Mat<bf16>& x, const PackedMatrix& w, const QuantisedRoom& room, simt::Stream stream) {
  constexpr int kUnit = 16 / sizeof(bf16);
  if (!info(w.format).int8_activations)
    return {reinterpret_cast<const uint4*>(x.at), static_cast<uint32_t>(x.ld / kUnit), nullptr, 0};
  constexpr int kThreads = 256;
  const int64_t warps = static_cast<int64_t>(x.rows) * w.groups();
  simt::launch(dim3(static_cast<unsigned>(ceil_div(warps, kThreads / 32))), dim3(kThreads), 0, stream, quantise_rows,
               x.at, x.ld, x.rows, w.k_tiles(), w.group_tiles, room);
  return {reinterpret_cast<const uint4*>(room.q), static_cast<uint32_t>(w.k_tiles() * kTileK / 16), room.groups,
          static_cast<uint32_t>(w.groups())};
}

void CudaDevice::linear(const Mat<bf16>& x, std::initializer_list<Product> products) {
  if (!x.rows) return;
  Inputs quantised;
  for (const Format format : {Format::BF16, Format::FP8, Format::RAWINT4, Format::AMXINT4, Format::AMXINT8}) {
    const Method method{format, shape_.tensor_cores};
    LinearJob job{.rows = x.rows};
    for (const Product& p : products) {
      if (p.w.format != format || !p.w.panels()) continue;
      job.x = quantised.at ? quantised : input_rows(x, p.w, scratch_.inputs, stream_);
      if (info(format).int8_activations) quantised = job.x;  // of one k: alike for all of them
      job.matrices[job.count++] = {weights_of(p.w), p.out.at, p.out.ld};
      job.panels += p.w.panels();
      if (job.count < LinearJob::kMost) continue;
      launch_linear(method, job, stream_);
      job.count = job.panels = 0;
    }
    if (job.count) launch_linear(method, job, stream_);
  }
}

void CudaDevice::linear_sum(const Mat<bf16>& x, const PackedMatrix& w, int slice, const float* scale,
                            const Mat<double>& y) {
  if (!x.rows || !w.panels()) return;
  const Method method{w.format, shape_.tensor_cores};
  const Form form = method.form(x.rows);
  launch_sum(method, form,
             {.x = input_rows(x, w, scratch_.inputs, stream_),
              .w = weights_of(w),
              .slice = slice / kTileK,
              .scale = scale,
              .y = y.at,
              .ldy = y.ld,
              .rows = x.rows},
             row_blocks(form, x.rows), stream_);
}

void CudaDevice::swiglu(const Mat<bf16>& x, const PackedMatrix& gate_up, const Mat<bf16>& h) {
  if (!x.rows || gate_up.panels() < 2) return;
  const Method method{gate_up.format, shape_.tensor_cores};
  const Form form = method.form(x.rows);
  launch_swiglu(method, form,
                {.x = input_rows(x, gate_up, scratch_.inputs, stream_),
                 .gate_up = weights_of(gate_up),
                 .h = h.at,
                 .ldh = h.ld,
                 .panels = gate_up.panels() / 2,
                 .rows = x.rows},
                row_blocks(form, x.rows), stream_);
}

}  // namespace kt::SIMT_TABLE
