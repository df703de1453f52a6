#include "runtime/engine/blocks.h"

#include <gtest/gtest.h>

#include <set>

#include "runtime/base/error.h"

namespace kt {
namespace {

TEST(BlockAllocator, GivesEveryBlockOnceAndThenNone) {
  BlockAllocator blocks(5);
  std::vector<int32_t> got;

  EXPECT_TRUE(blocks.take(2, got));
  EXPECT_TRUE(blocks.take(3, got));

  EXPECT_EQ(std::set<int32_t>(got.begin(), got.end()), (std::set<int32_t>{0, 1, 2, 3, 4}));
  EXPECT_FALSE(blocks.take(1, got));
  EXPECT_EQ(got.size(), 5u);
}

TEST(BlockAllocator, TakesAllOrNothing) {
  BlockAllocator blocks(3);
  std::vector<int32_t> got;

  EXPECT_FALSE(blocks.take(4, got));

  EXPECT_TRUE(got.empty());
  EXPECT_EQ(blocks.free_count(), 3);
}

TEST(BlockAllocator, NoticesABlockGivenBackTwice) {
  BlockAllocator blocks(3);
  std::vector<int32_t> got;
  blocks.take(1, got);
  blocks.give_back(got);

  EXPECT_THROW(blocks.give_back(got), Error);
  EXPECT_THROW(blocks.give_back(std::vector<int32_t>{3}), Error);
}

}  // namespace
}  // namespace kt
