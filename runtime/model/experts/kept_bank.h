#pragma once

#include <chrono>
#include <filesystem>
#include <string_view>

#include "kernels/device.h"
#include "runtime/base/descriptor.h"

namespace kt {

// A bank's memory in a file that outlives its rank, on tmpfs: the next start finds it filled. The file
// gets its name, ktmpi-bank-<key> in that folder, when the bank is whole, so a rank that ends before leaves none. It is
// this user's alone, and locked while a rank has it.
class KeptBank {
 public:
  // Finds or makes the file of that key, and waits for a rank that is about to leave it. `bytes` as of bank_bytes().
  // Throws Error(kExitUsage) where the folder or a file in it will not do, kExitTryAgain where another
  // rank keeps it. Takes no memory.
  KeptBank(const std::filesystem::path& folder, std::string_view key, size_t bytes,
           std::chrono::milliseconds patience = std::chrono::seconds(10));

  bool filled() const { return filled_; }  // by an earlier rank
  const std::filesystem::path& path() const { return path_; }
  // What the file takes of the machine's memory: already, and in addition when memory() is called.
  size_t taken() const { return filled_ ? Buffer::footprint(bytes_) : 0; }
  size_t missing() const { return Buffer::footprint(bytes_) - taken(); }

  // On a NUMA node (-1: any), zeroed if it is not filled. Throws std::bad_alloc where the folder is full.
  Buffer memory(int node, ThreadPool& pool) const { return Buffer(file_.fd(), bytes_, node, pool); }
  // That memory is filled: from now on a next rank may find it, and nobody writes to it.
  void publish(const Buffer& memory);
  // No next rank shall.
  void remove();

  static constexpr std::string_view kPrefix = "ktmpi-bank-";

 private:
  std::filesystem::path path_;
  size_t bytes_;
  Descriptor file_;
  bool filled_ = false;
};

}  // namespace kt
