#include "runtime/model/experts/expert_groups.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace kt {
namespace {

constexpr int kExperts = 12, kGroups = 3;
// Layer 0 has no copies; in layer 1 expert 0 is everywhere and expert 4 in group 2 too.
const std::vector<ExpertSets> kCopies = {{{}, {}}, {{}, {0}}, {{}, {0, 4}}};

std::vector<int32_t> random_pairs(size_t count) {
  std::mt19937 random(7);
  std::vector<int32_t> pairs(count);
  for (int32_t& p : pairs) p = static_cast<int32_t>(random() % (kExperts + 1)) - 1;
  return pairs;
}

TEST(ExpertGroups, EveryPairGoesToAGroupThatHoldsItsExpert) {
  ExpertGroups groups(kGroups, kExperts, kCopies);
  for (const int layer : {0, 1})
    for (const size_t count : {size_t{0}, size_t{1}, size_t{10}, size_t{5000}}) {
      const std::vector<int32_t> pairs = random_pairs(count);

      std::vector<int32_t> owner = pairs;
      groups.assign(layer, owner);

      for (size_t i = 0; i < count; ++i) {
        const int32_t e = pairs[i];
        if (e < 0) {
          EXPECT_EQ(owner[i], -1);
          continue;
        }
        ASSERT_TRUE(owner[i] >= 0 && owner[i] < kGroups);
        const std::vector<int32_t>& copies = kCopies[owner[i]][layer];
        EXPECT_TRUE(owner[i] == e % kGroups || std::binary_search(copies.begin(), copies.end(), e))
            << "expert " << e << " of layer " << layer << " is not in group " << owner[i];
      }
    }
}

TEST(ExpertGroups, WithoutCopiesExpertsAreAtHome) {
  ExpertGroups groups(kGroups, kExperts);
  std::vector<int32_t> pairs = {0, 1, 2, 3, -1, 11};

  groups.assign(0, pairs);

  EXPECT_EQ(pairs, (std::vector<int32_t>{0, 1, 2, 0, -1, 2}));
}

TEST(ExpertGroups, OneTokensExpertsSpreadOverTheHolders) {
  ExpertGroups groups(kGroups, kExperts, kCopies);
  std::vector<int32_t> pairs = {3, 6, 0, 1};  // homes 0, 0, 0, 1

  groups.assign(1, pairs);

  EXPECT_EQ(pairs, (std::vector<int32_t>{0, 0, 2, 1}));  // group 2 has nothing else
}

TEST(ExpertGroups, NothingGoesToAGroupThatWasLeftOut) {
  ExpertGroups groups(kGroups, kExperts, kCopies);
  groups.leave_out(0);
  std::vector<int32_t> all(6 * ExpertGroups::kPieceRows, 0), others = {1, 4, 2, 5};

  groups.assign(1, all);
  groups.assign(1, others);

  EXPECT_EQ(std::count(all.begin(), all.end(), 0), 0);
  EXPECT_EQ(std::count(all.begin(), all.end(), 1), 3 * ExpertGroups::kPieceRows);
  EXPECT_EQ(others, (std::vector<int32_t>{1, 1, 2, 2}));

  groups.leave_out(2);
  all.assign(2, 0);
  groups.assign(1, all);
  EXPECT_EQ(all, (std::vector<int32_t>{1, 1}));
}

TEST(ExpertGroups, ManyRowsOfOneExpertAreSharedOutInPieces) {
  ExpertGroups groups(kGroups, kExperts, kCopies);
  std::vector<int32_t> pairs(30 * ExpertGroups::kPieceRows, 0);

  groups.assign(1, pairs);

  for (int g = 0; g < kGroups; ++g) EXPECT_EQ(std::count(pairs.begin(), pairs.end(), g), 10 * ExpertGroups::kPieceRows);
}

}  // namespace
}  // namespace kt
