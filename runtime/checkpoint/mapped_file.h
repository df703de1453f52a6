#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

namespace kt {

// A regular file mapped read-only for the lifetime of this object; an empty file is an empty span.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& path);  // throws Error(kExitModel) with the system's reason
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  MappedFile& operator=(MappedFile&&) = delete;

  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  std::span<const std::byte> bytes_;
};

}  // namespace kt
