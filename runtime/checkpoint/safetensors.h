#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace kt {

enum class StoredType : uint8_t { f32, f16, bf16, f8_e4m3, i64, i32, i8, u8 };
size_t bytes_of(StoredType type);
std::string_view name_of(StoredType type);  // as in the file: "BF16"

// A tensor in a mapped file, row-major. No alignment beyond the file's is promised.
struct StoredTensor {
  StoredType type = StoredType::bf16;
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;  // exactly product(shape) * bytes_of(type)
  std::string file;                  // for messages
};

// All tensors of a model folder, from model.safetensors.index.json or a lone model.safetensors, mapped read-only.
// Immutable; any thread may read. Every offset was checked against the file at opening; every failure is
// Error(kExitModel) with file, tensor, expected and found.
class Checkpoint {
 public:
  virtual ~Checkpoint() = default;
  virtual const StoredTensor* find(std::string_view name) const = 0;  // nullptr if absent
  // The tensor with that shape; throws when absent or of another shape, naming both.
  virtual const StoredTensor& at(std::string_view name, std::span<const int64_t> shape) const = 0;
  virtual std::vector<std::string_view> names() const = 0;
  virtual size_t total_bytes() const = 0;
};

std::unique_ptr<Checkpoint> open_checkpoint(const std::filesystem::path& folder);

}  // namespace kt
