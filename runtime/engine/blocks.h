#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace kt {

// Hands out the pages of the KV pool by number; where they lie is the ranks' business. One thread.
class BlockAllocator {
 public:
  explicit BlockAllocator(int count);

  int total() const { return static_cast<int>(taken_.size()); }
  int free_count() const { return static_cast<int>(free_.size()); }
  // Appends `count` blocks to `blocks`, or returns false and changes nothing.
  bool take(int count, std::vector<int32_t>& blocks);
  // Throws Error for a block that is not taken.
  void give_back(std::span<const int32_t> blocks);

 private:
  std::vector<int32_t> free_;  // a stack: the block last used is used next
  std::vector<bool> taken_;
};

}  // namespace kt
