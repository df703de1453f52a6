#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

namespace kt {

// Element types of safetensors files. Which of them a tensor may have is the loader's decision.
enum class StoredType { f64, f32, f16, bf16, f8_e4m3, f8_e5m2, i64, i32, i16, i8, u64, u32, u16, u8, boolean };
size_t bytes_of(StoredType type);
std::string_view name_of(StoredType type);  // as in the file: "BF16"

// A tensor in a mapped file, row-major. No alignment beyond the file's is promised: not even that of the type.
struct StoredTensor {
  StoredType type = StoredType::bf16;
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;  // exactly product(shape) * bytes_of(type)
  std::string_view file;             // for messages; lives as long as the checkpoint
};

// Consecutive rows of a tensor, row-major.
struct StoredRows {
  StoredType type = StoredType::bf16;
  std::span<const std::byte> bytes;
};

// Where weights come from: the files of a model folder, or a generator (checkpoint/dummy.h). Immutable; any thread may
// read. Every failure is Error(kExitModel) with file, tensor, expected and found.
//
// A row is the last dimension: a tensor (E, 2I, H) has E * 2I rows of H elements, a vector (n) is one row. So a rank
// takes its slice of a matrix, and an expert of a fused tensor is the rows [e * 2I, (e + 1) * 2I).
class Checkpoint {
 public:
  virtual ~Checkpoint() = default;

  // The tensor as stored; nullptr when there is none of that name. A generator stores nothing: it makes whatever shape
  // rows() asks for. Loaders use this to tell the layouts that releases differ in.
  virtual const StoredTensor* find(std::string_view name) const = 0;

  // Rows [first, first + count) of the tensor, which must have that shape. They are views of the mapped file where
  // there is one; else they are made in `scratch`, which is enlarged as needed. Valid until `scratch` is used again.
  virtual StoredRows rows(std::string_view name, std::span<const int64_t> shape, int64_t first, int64_t count,
                          std::vector<std::byte>& scratch) const = 0;
  StoredRows all_rows(std::string_view name, std::span<const int64_t> shape, std::vector<std::byte>& scratch) const;

  virtual std::vector<std::string_view> names() const = 0;  // of the stored tensors
  virtual size_t total_bytes() const = 0;                   // of the stored tensors
};

// All tensors of model.safetensors.index.json, or of a lone model.safetensors, mapped read-only. Every header was
// checked against its file: a truncated shard is refused here, before anything is read.
std::unique_ptr<Checkpoint> open_checkpoint(const std::filesystem::path& folder);

// Elements in a row and rows of a shape; nullopt when the product exceeds int64. An empty shape is one row of one.
struct RowCount {
  int64_t rows = 1, columns = 1;
};
std::optional<RowCount> count_rows(std::span<const int64_t> shape);

}  // namespace kt
