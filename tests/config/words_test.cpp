#include "runtime/config/words.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace kt {
namespace {

TEST(Words, SplitKeepsNoEmptyTail) {
  EXPECT_THAT(split("a|bc", '|'), testing::ElementsAre("a", "bc"));
  EXPECT_THAT(split("", '|'), testing::IsEmpty());
  EXPECT_THAT(split("a,", ','), testing::ElementsAre("a"));
  EXPECT_FALSE(contains("", ""));
}

TEST(Words, NearestCountsEditsAndIgnoresCase) {
  const std::string_view names[] = {"port", "host", "BF16"};

  EXPECT_EQ(nearest("prot", names), "port");
  EXPECT_EQ(nearest("hst", names), "host");
  EXPECT_EQ(nearest("bf16", names), "BF16");
  EXPECT_EQ(nearest("x", {}), "");
}

}  // namespace
}  // namespace kt
