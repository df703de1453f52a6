#include <gtest/gtest.h>

#include <algorithm>

#include "runtime/base/error.h"
#include "runtime/placement/placement.h"

namespace kt {
namespace {

const std::vector<bool> kMoe = {false, true, true};
constexpr int kExperts = 12;
const HotSets kHot = {{}, {0, 5}, {}};

ExpertCounts skewed() {
  ExpertCounts counts{static_cast<int>(kMoe.size()), kExperts, {}};
  for (size_t layer = 0; layer < kMoe.size(); ++layer)
    for (int e = 0; e < kExperts; ++e)
      counts.counts.push_back(kMoe[layer] ? (layer * 31 + static_cast<size_t>(e) * 17) % 7 * 100 : 0);
  return counts;
}

// Groups that hold an expert, its home included.
std::vector<int> holders(const std::vector<HotSets>& copies, size_t layer, int32_t expert) {
  std::vector<int> found = {expert % static_cast<int>(copies.size())};
  for (int g = 0; g < static_cast<int>(copies.size()); ++g)
    if (std::binary_search(copies[g][layer].begin(), copies[g][layer].end(), expert)) found.push_back(g);
  return found;
}

TEST(Copies, EachMoeLayerGetsExactlyAsManyOfColdExpertsInGroupsThatDoNotHoldThem) {
  const ExpertCounts counts = skewed();
  for (const int groups : {2, 3, 5})
    for (const ExpertCounts* given : {&counts, static_cast<const ExpertCounts*>(nullptr)})
      for (int n = 0; n <= 10 * (groups - 1); ++n) {
        const auto copies = place_copies({kMoe, kExperts, 2, given}, kHot, groups, n);

        ASSERT_EQ(copies.size(), static_cast<size_t>(groups));
        EXPECT_EQ(copies, place_copies({kMoe, kExperts, 2, given}, kHot, groups, n));
        for (size_t layer = 0; layer < kMoe.size(); ++layer) {
          size_t all = 0;
          for (int g = 0; g < groups; ++g) {
            const std::vector<int32_t>& set = copies[g][layer];
            all += set.size();
            EXPECT_TRUE(std::adjacent_find(set.begin(), set.end(), std::greater_equal<>()) == set.end());
            for (int32_t e : set) {
              EXPECT_NE(e % groups, g) << "a copy at home";
              EXPECT_FALSE(std::binary_search(kHot[layer].begin(), kHot[layer].end(), e)) << "a copy of a hot expert";
            }
          }
          EXPECT_EQ(all, kMoe[layer] ? static_cast<size_t>(n) : 0u);
        }
      }
}

TEST(Copies, TheMostUsedExpertsGetThemAndHeavyOnesSeveral) {
  ExpertCounts counts{1, 8, {1000, 10, 500, 10, 10, 10, 10, 10}};

  const auto copies = place_copies({{true}, 8, 0, &counts}, {{}}, 4, 4);

  EXPECT_EQ(holders(copies, 0, 0).size(), 4u);  // 1000, 500, 333: above or at 500 until it has three holders
  EXPECT_EQ(holders(copies, 0, 2).size(), 2u);
}

TEST(Copies, TheyEvenOutTheGroups) {
  const ExpertCounts counts = skewed();
  const auto spread = [&](int n) {
    const auto copies = place_copies({kMoe, kExperts, 2, &counts}, kHot, 3, n);
    std::vector<double> load(3);
    for (int32_t e = 0; e < kExperts; ++e)
      for (int g : holders(copies, 2, e))
        load[g] += static_cast<double>(counts.of_layer(2)[e]) / static_cast<double>(holders(copies, 2, e).size());
    const auto [least, most] = std::minmax_element(load.begin(), load.end());
    return *most - *least;
  };

  EXPECT_LT(spread(6), spread(0));
}

TEST(Copies, MoreThanThereIsRoomForAreRefused) {
  EXPECT_THROW(place_copies({kMoe, kExperts, 2, nullptr}, kHot, 2, 11), Error);
  EXPECT_NO_THROW(place_copies({{true}, 2, 0, nullptr}, {{}}, 5, 2));  // groups without experts of their own get none
  EXPECT_THROW(place_copies({{true}, 2, 0, nullptr}, {{}}, 5, 3), Error);
}

TEST(Copies, AnExpertIsLostWithTheLastGroupThatHoldsIt) {
  const PlacementRequest request{{false, true}, 4, 0, nullptr};
  const HotSets hot = {{}, {1}};
  const std::vector<HotSets> copies = {{{}, {2}}, {{}, {}}, {{}, {0}}};  // at home: 0 and 3 in group 0, 2 in group 2
  const auto lost = [&](const std::vector<int>& gone) {
    const auto expert = lost_expert(request, hot, 3, copies, gone);
    return expert ? std::pair(expert->layer, expert->expert) : std::pair(-1, -1);
  };
  const auto nothing = std::pair(-1, -1);

  EXPECT_EQ(lost({}), nothing);
  EXPECT_EQ(lost({1}), nothing) << "its expert is hot";
  EXPECT_EQ(lost({0}), std::pair(1, 3));
  EXPECT_EQ(lost({2}), nothing) << "group 0 holds a copy";
  EXPECT_EQ(lost({0, 2}), std::pair(1, 0));
}

}  // namespace
}  // namespace kt
