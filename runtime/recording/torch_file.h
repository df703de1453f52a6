#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "runtime/recording/pickle.h"
#include "runtime/recording/zip_archive.h"

namespace kt {

// Files of torch.save (torch 1.6 and later): a zip archive with ARCHIVE/data.pkl, a pickle, and ARCHIVE/data/KEY, the
// elements of its tensors, little endian. (torch/serialization.py; caffe2/serialize/inline_container.h)

// The name torch has for storages of T's.
template <class T>
constexpr std::string_view torch_storage() {
  if constexpr (std::is_same_v<T, bool>) return "BoolStorage";
  if constexpr (std::is_same_v<T, int32_t>) return "IntStorage";
  if constexpr (std::is_same_v<T, int64_t>) return "LongStorage";
}

class TorchReader {
 public:
  explicit TorchReader(const std::filesystem::path& path);  // throws Error(kExitUsage)

  const PickleValue& root() const { return *pickle_.root; }

  // The elements of a tensor of any number type, or of bool, in row-major order: exact up to 2^53.
  // Throws Error(kExitUsage) for a tensor that its storage does not hold.
  std::vector<double> numbers(const PickleTensor& tensor) const;

  const std::string& where() const { return where_; }  // begins messages

 private:
  std::string where_;
  ZipReader zip_;
  std::string archive_;  // "ARCHIVE/"
  Pickle pickle_;
};

// Writes one: the values in `pickle`, with tensors made by tensor().
class TorchWriter {
 public:
  explicit TorchWriter(std::filesystem::path path);

  PickleWriter pickle;

  template <class T>
  void tensor(std::span<const T> elements, std::span<const int64_t> shape) {
    add_tensor({reinterpret_cast<const char*>(elements.data()), elements.size_bytes()}, torch_storage<T>(),
               static_cast<int64_t>(elements.size()), shape);
  }
  void finish();  // the file is there after this, whole

 private:
  void add_tensor(std::string_view bytes, std::string_view type, int64_t elements, std::span<const int64_t> shape);

  std::string archive_;
  ZipWriter zip_;
  int tensors_ = 0;
};

}  // namespace kt
