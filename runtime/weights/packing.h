#pragma once

#include <cstddef>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kernels/device.h"
#include "runtime/arch/config.h"
#include "runtime/checkpoint/safetensors.h"
#include "runtime/weights/stored_format.h"

namespace kt {

// Rows [first, first + count) of a stored tensor.
struct RowRun {
  std::string name;
  std::vector<int64_t> shape;
  int64_t first = 0, count = 0;
};

// Numbers in a device's memory: for its operations, not for the host.
using DeviceFloats = std::span<const float>;

// Collects the matrices that a rank will hold, and small vectors beside them, so that their size is known before memory
// is taken; then takes it and fills it from the checkpoint with all threads.
//
// A tensor's name ends in ".weight" (or is that of a fused stack of experts). What is stored decides the format: BF16,
// to which F32 and F16 are rounded; FP8 where "<name>_scale_inv" is there; INT4 where "<name>_packed" stands in its
// place. A generated checkpoint stores nothing: there `quant` decides, for the linear layers that releases quantise.
// What is stored as BF16 or FP8 may be quantised to `method`, AMXINT8 or AMXINT4, where that is not too much for it:
// routers, gates and what picks keys stay as they are, and the head gets no fewer than 8 bits.
class Packing {
 public:
  Packing(const Checkpoint& checkpoint, const QuantSpec& quant, std::optional<Format> method = {})
      : checkpoint_(checkpoint), quant_(quant), method_(method) {}

  // `target` becomes a packed matrix of the given rows (one run after the other) and columns; `slice` is that of
  // Ops::matmul_add, 0 for Ops::matmul. Its data is set by load().
  void add(PackedMatrix* target, std::vector<RowRun> rows, int64_t first_column, int columns, int slice = 0);
  // Two matrices of equal size as alternating panels, as Ops::swiglu wants them; padded to an even number of pairs.
  void add_pair(PackedMatrix* target, RowRun gate, RowRun up);
  // Numbers that are there already.
  void add(DeviceFloats* target, std::vector<float> values);

  size_t bytes() const { return bytes_ + vector_bytes_; }
  size_t stored() const { return stored_; }      // bytes in the checkpoint's files
  size_t elements() const { return elements_; }  // weights, without padding

  // Every tensor is there, of that shape, and of a type that can be packed; else Error(kExitModel). Reads no weights.
  void check() const;
  // Checks, takes memory and packs, with a progress line now and then: "loading <what>: 12.0 of 88.2 GB, 2.15 GB/s, 35
  // s left". The targets must still be where they were.
  Buffer load(Device& device, const std::string& what);
  // The same into bytes() bytes of the device's memory, of what check() has seen.
  void load_into(const Buffer& memory, Device& device, const std::string& what);
  // The same into bytes() bytes at `memory` of the host, matrix after matrix in the order of add, and without lines.
  void load_into(std::byte* memory, ThreadPool& pool);

 private:
  struct Job {
    PackedMatrix* target;
    Format stored;
    std::vector<RowRun> rows;
    int64_t first_column;
    int columns;
    size_t offset;                // of the target in the buffer
    int first_panel, panel_step;  // where the job's panels go in the target
  };
  struct Vector {
    DeviceFloats* target;
    std::vector<float> values;
    size_t offset;  // behind the matrices
  };
  // Some panels of a job, and where they are in the buffer.
  struct Task {
    const Job* job;
    int first_panel, panels;
    size_t begin, end;
  };
  // Where the buffer's bytes from `begin` on are made.
  struct Window {
    std::byte* at;
    size_t begin;
  };
  Format stored_format_of(const std::string& name) const;
  Format format_of(const std::string& name) const;  // in memory
  PackedMatrix planned(const std::vector<RowRun>& rows, int64_t n, int64_t first_column, int columns, int slice) const;
  bool rounds() const;  // some weights are stored as F32 or F16
  void require_one_scale(const RowRun& run, bool closes_its_panel) const;
  std::vector<Task> tasks() const;
  void pack(std::span<const Task> tasks, Window window, ThreadPool& pool,
            const std::function<void(size_t)>& done) const;
  void pack(const Task& task, Window window) const;
  void set_targets(const std::byte* memory) const;
  void pack_bf16(const Job& job, int panel, std::byte* out) const;
  void pack_fp8(const Job& job, int panel, std::byte* out) const;
  void pack_int4(const Job& job, int panel, std::byte* out) const;
  void pack_quantized(const Job& job, int panel, std::byte* out) const;

  const Checkpoint& checkpoint_;
  QuantSpec quant_;
  std::optional<Format> method_;
  std::vector<Job> jobs_;
  std::vector<Vector> vectors_;
  size_t bytes_ = 0, vector_bytes_ = 0, stored_ = 0, elements_ = 0;
};

}  // namespace kt
