#include "runtime/engine/blocks.h"

#include "runtime/base/error.h"

namespace kt {

BlockAllocator::BlockAllocator(int count) : taken_(static_cast<size_t>(count), false) {
  for (int32_t block = count - 1; block >= 0; --block) free_.push_back(block);
}

bool BlockAllocator::take(int count, std::vector<int32_t>& blocks) {
  if (count > free_count()) return false;
  for (int i = 0; i < count; ++i) {
    blocks.push_back(free_.back());
    taken_[static_cast<size_t>(free_.back())] = true;
    free_.pop_back();
  }
  return true;
}

void BlockAllocator::give_back(std::span<const int32_t> blocks) {
  for (const int32_t block : blocks) {
    if (block < 0 || block >= total() || !taken_[static_cast<size_t>(block)]) {
      fail(kExitUsage, "KV block {} of {} is given back but was not taken", block, total());
    }
    taken_[static_cast<size_t>(block)] = false;
    free_.push_back(block);
  }
}

}  // namespace kt
