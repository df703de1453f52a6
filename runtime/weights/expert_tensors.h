#pragma once

#include <string>
#include <vector>

#include "runtime/arch/arch.h"
#include "runtime/weights/packing.h"
#include "runtime/weights/shares.h"

namespace kt {

// A routed expert's matrices in a checkpoint, all rows: gate and up (inter, hidden), down (hidden, inter).
struct ExpertRows {
  RowRun gate, up, down;
};
// The prefix of the architecture's tensors under which the checkpoint has the embedding.
std::string_view tensor_prefix(const Checkpoint& checkpoint, const Arch& arch);
// Names and shapes of expert `e` of a layer. Which layout is there decides; where none is (a generated checkpoint), the
// one that the architecture's releases have.
ExpertRows expert_rows(const Checkpoint& checkpoint, const Arch& arch, const ModelConfig& config, int layer, int e);

// "bf16", "fp16", "fp32", "fp8", "int4", or the stored type's own name; "nothing" when the tensor is not there.
std::string stored_as(const Checkpoint& checkpoint, const std::string& name);

// Rows of a stored matrix as float32: BF16, F16, F32, FP8 with its blocks' scales, INT4 with its groups' scales. Each
// value is the product of the stored number and its scale, rounded once. Checks shapes and types: Error(kExitModel).
class FloatRows {
 public:
  FloatRows(const Checkpoint& checkpoint, const QuantSpec& quant, const RowRun& run);
  FloatRows(const FloatRows&) = delete;
  FloatRows& operator=(const FloatRows&) = delete;

  // Columns of `count` rows from `first` on, counted in the run, one after the other. Values below 2^-100 are zero: the
  // scales of integers that small would be denormal. Throws Error(kExitModel) when a value is infinite or not a number.
  void read(int64_t first, int64_t count, Range columns, float* out) const;
  // Says that the file's pages are not needed again, so that a long conversion does not hold the whole checkpoint.
  void forget() const;

 private:
  enum class Kind { floats, fp8, int4 };
  void read_row(int64_t row, Range columns, float* out) const;

  std::string name_;
  Kind kind_ = Kind::floats;
  StoredType type_ = StoredType::bf16;
  int64_t first_, count_, columns_;
  std::vector<int64_t> shape_;        // of the whole tensor
  QuantSpec quant_;                   // the blocks that share a scale
  std::span<const std::byte> bytes_;  // rows [first_, first_ + count_)
  std::vector<float> scales_;
  std::vector<std::byte> scratch_;
};

}  // namespace kt
