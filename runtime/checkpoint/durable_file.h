#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>

namespace kt {

// A file that is either there completely or not at all: it is written as "<name>.part" and gets its name in commit(),
// when its bytes are on the disk. What a killed process leaves is overwritten by the next one. Failures, such as a full
// disk, are Error(kExitTryAgain).
class DurableFile {
 public:
  explicit DurableFile(std::filesystem::path path);
  ~DurableFile();
  DurableFile(const DurableFile&) = delete;
  DurableFile& operator=(const DurableFile&) = delete;

  void write(std::span<const std::byte> bytes, uint64_t position);  // any thread may
  void commit();

 private:
  [[noreturn]] void refuse(const char* what) const;

  std::filesystem::path path_, part_;
  int file_ = -1;
};

// Holds a folder against other processes that want to write to it, as long as this object lives.
class FolderLock {
 public:
  explicit FolderLock(const std::filesystem::path& folder);  // throws Error(kExitTryAgain) when it is held already
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  int file_;
};

}  // namespace kt
