#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "kernels/buffer.h"
#include "kernels/thread_pool.h"
#include "kernels/weight.h"
#include "runtime/checkpoint/safetensors.h"
#include "runtime/model/config.h"

namespace kt {

// Rows [first, first + count) of a stored tensor.
struct RowRun {
  std::string name;
  std::vector<int64_t> shape;
  int64_t first = 0, count = 0;
};

// Collects the matrices that a rank will hold, so that their size is known before memory is taken; then takes it and
// fills it from the checkpoint with all threads.
//
// A tensor's name ends in ".weight" (or is that of a fused stack of experts). What is stored decides the format: BF16;
// FP8 where "<name>_scale_inv" is there; INT4 where "<name>_packed" stands in its place. A generated checkpoint stores
// nothing: there `quant` decides, for the linear layers that releases quantise.
class Packing {
 public:
  Packing(const Checkpoint& checkpoint, const QuantSpec& quant) : checkpoint_(checkpoint), quant_(quant) {}

  // `target` becomes a packed matrix of the given rows (one run after the other) and columns; `slice` is that of
  // Ops::matmul_add, 0 for Ops::matmul. Its data is set by load().
  void add(PackedMatrix* target, std::vector<RowRun> rows, int64_t first_column, int columns, int slice = 0);
  // Two matrices of equal size as alternating panels, as Ops::swiglu wants them; padded to an even number of pairs.
  void add_pair(PackedMatrix* target, RowRun gate, RowRun up);

  size_t bytes() const { return bytes_; }
  size_t stored() const { return stored_; }      // bytes in the checkpoint's files
  size_t elements() const { return elements_; }  // weights, without padding

  // Checks every tensor (there, of that shape and type) before anything is allocated, then allocates on the NUMA node
  // (-1: any) and packs, with a progress line now and then: "loading <what>: 12.0 of 88.2 GB, 2.15 GB/s, 35 s left".
  // Throws Error(kExitModel). The targets must still be where they were.
  Buffer load(ThreadPool& pool, int numa_node, const std::string& what);
  // The same into bytes() bytes at `memory`, matrix after matrix in the order of add, and without lines.
  void load_into(std::byte* memory, ThreadPool& pool);

 private:
  struct Job {
    PackedMatrix* target;
    std::vector<RowRun> rows;
    int64_t first_column;
    int columns;
    size_t offset;                // of the target in the buffer
    int first_panel, panel_step;  // where the job's panels go in the target
  };
  Format format_of(const std::string& name) const;
  PackedMatrix planned(const std::vector<RowRun>& rows, int64_t n, int64_t first_column, int columns, int slice) const;
  void check() const;
  void fill(std::byte* memory, ThreadPool& pool, const std::function<void(size_t)>& done);
  void pack(const Job& job, int first_panel, int panels, std::byte* buffer) const;
  void pack_bf16(const Job& job, int panel, std::byte* out) const;
  void pack_fp8(const Job& job, int panel, std::byte* out) const;
  void pack_int4(const Job& job, int panel, std::byte* out) const;

  const Checkpoint& checkpoint_;
  QuantSpec quant_;
  std::vector<Job> jobs_;
  size_t bytes_ = 0, stored_ = 0, elements_ = 0;
};

// The format in memory of what a checkpoint stores so.
Format stored_format(Stored stored);

// Bytes of a (rows, columns) matrix in a checkpoint's files, with its scales: float32 ones for FP8 blocks of 128 x 128.
size_t stored_bytes(Format format, int64_t rows, int64_t columns);

// A small tensor as float32. Accepts F32, BF16 and F16.
std::vector<float> read_floats(const Checkpoint& checkpoint, const std::string& name, std::vector<int64_t> shape);

}  // namespace kt
