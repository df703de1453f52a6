#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <span>
#include <vector>

namespace kt {

// Memory that the ranks of one machine see all of: a part for each of them, zeroed. It is the owner's to read and write
// as its user's protocol says, and lives as long as any copy of this object.
class NodeMemory {
 public:
  NodeMemory() = default;
  NodeMemory(std::vector<std::span<std::byte>> part_of, std::shared_ptr<void> keeper)
      : part_of_(std::move(part_of)), keeper_(std::move(keeper)) {}

  // Aligned to 64 bytes, or to a huge page if it is as large as one; empty where the rank is on another machine.
  std::span<std::byte> of(int rank) const {
    return part_of_.empty() ? std::span<std::byte>() : part_of_[static_cast<size_t>(rank)];
  }

 private:
  std::vector<std::span<std::byte>> part_of_;  // by rank
  std::shared_ptr<void> keeper_;
};

// Where parts of these sizes begin in one block of memory; the last element is its size.
std::vector<size_t> part_offsets(std::span<const size_t> sizes);

// A file that is in memory only and has no name, so that the system frees it with the last process that uses it,
// however that one ends. Both throw Error(kExitTryAgain).
class MemoryFile {
 public:
  explicit MemoryFile(size_t bytes);
  // Another process's of this machine: `id` is what it was told.
  MemoryFile(std::span<const long, 2> id, size_t bytes);
  ~MemoryFile();
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  std::array<long, 2> id() const;  // for other processes, while this object lives
  std::shared_ptr<void> map() const;

 private:
  int file_ = -1;
  size_t bytes_;
};

}  // namespace kt
