#include "runtime/placement/placement.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <string>

#include "runtime/base/error.h"
#include "tests/refusal_of.h"

namespace kt {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

struct Case {
  std::vector<bool> moe;
  int experts;
};

// One layer, dense layers in front, between and at the end, and a large one.
const Case kCases[] = {{{true}, 1},
                       {{false, true, true}, 5},
                       {{true, false, true, true, false, true, false}, 7},
                       {std::vector<bool>(61, true), 16}};

int64_t moe_layers(const Case& c) { return std::count(c.moe.begin(), c.moe.end(), true); }

// Skewed, with many ties.
ExpertCounts counts_of(const Case& c) {
  ExpertCounts counts{static_cast<int>(c.moe.size()), c.experts, {}};
  for (size_t layer = 0; layer < c.moe.size(); ++layer)
    for (int expert = 0; expert < c.experts; ++expert)
      counts.counts.push_back(c.moe[layer] ? (layer * 31 + static_cast<size_t>(expert) * 17) % 5 + 1 : 0);
  return counts;
}

int64_t size_of(const HotSets& hot) {
  return std::accumulate(hot.begin(), hot.end(), int64_t{0},
                         [](int64_t n, const auto& set) { return n + std::ssize(set); });
}

// The Error's text; placement refuses what was asked of it, not the model.
template <class Action>
std::string refusal(const Action& action) {
  return refusal_of(action, kExitUsage);
}

TEST(Placement, EveryStrategyMeetsEveryBudgetExactlyAndLeavesDenseLayersAlone) {
  for (const std::string_view strategy : placement_strategies()) {
    for (const Case& c : kCases) {
      const ExpertCounts counts = counts_of(c);
      for (int64_t budget = 0; budget <= moe_layers(c) * c.experts; ++budget) {
        const HotSets hot = place(strategy, {c.moe, c.experts, budget, &counts});

        ASSERT_EQ(hot.size(), c.moe.size());
        EXPECT_EQ(size_of(hot), budget) << strategy;
        for (size_t layer = 0; layer < hot.size(); ++layer) {
          EXPECT_TRUE(c.moe[layer] || hot[layer].empty()) << strategy;
          EXPECT_TRUE(std::adjacent_find(hot[layer].begin(), hot[layer].end(), std::greater_equal<>()) ==
                      hot[layer].end());
          for (const int32_t expert : hot[layer]) EXPECT_TRUE(expert >= 0 && expert < c.experts) << strategy;
        }
      }
    }
  }
}

TEST(Placement, ALargerBudgetKeepsWhatASmallerOneHolds) {
  for (const std::string_view strategy : placement_strategies()) {
    const Case& c = kCases[2];
    const ExpertCounts counts = counts_of(c);
    HotSets before = place(strategy, {c.moe, c.experts, 0, &counts});
    for (int64_t budget = 1; budget <= moe_layers(c) * c.experts; ++budget) {
      HotSets now = place(strategy, {c.moe, c.experts, budget, &counts});

      for (size_t layer = 0; layer < now.size(); ++layer)
        EXPECT_TRUE(std::includes(now[layer].begin(), now[layer].end(), before[layer].begin(), before[layer].end()))
            << strategy << " with budget " << budget;
      before = std::move(now);
    }
  }
}

TEST(Placement, UniformGivesTheRestToTheFirstLayers) {
  EXPECT_THAT(place("uniform", {{false, true, true, true}, 8, 7, nullptr}),
              ElementsAre(IsEmpty(), ElementsAre(0, 1, 2), ElementsAre(0, 1), ElementsAre(0, 1)));
}

TEST(Placement, FrontLoadingFillsALayerBeforeTheNext) {
  EXPECT_THAT(place("front-loading", {{false, true, true, true}, 3, 4, nullptr}),
              ElementsAre(IsEmpty(), ElementsAre(0, 1, 2), ElementsAre(0), IsEmpty()));
}

TEST(Placement, FrequencyTakesTheMostUsedOfTheWholeModel) {
  const ExpertCounts counts{3, 4, {0, 0, 0, 0, 9, 1, 8, 7, 2, 3, 2, 2}};

  EXPECT_THAT(place("frequency", {{false, true, true}, 4, 4, &counts}),
              ElementsAre(IsEmpty(), ElementsAre(0, 2, 3), ElementsAre(1)));
}

TEST(Placement, FrequencyGivesTiesToTheLowerLayerThenToTheLowerExpert) {
  const ExpertCounts counts{2, 3, {1, 5, 5, 5, 5, 1}};

  EXPECT_THAT(place("frequency", {{true, true}, 3, 3, &counts}), ElementsAre(ElementsAre(1, 2), ElementsAre(0)));
  EXPECT_THAT(place("frequency", {{true, true}, 3, 5, &counts}), ElementsAre(ElementsAre(0, 1, 2), ElementsAre(0, 1)));
}

TEST(Placement, FrequencyIgnoresCountsOfDenseLayers) {
  const ExpertCounts counts{2, 2, {100, 100, 1, 2}};

  EXPECT_THAT(place("frequency", {{false, true}, 2, 1, &counts}), ElementsAre(IsEmpty(), ElementsAre(1)));
}

TEST(Placement, FrequencyHitsAtLeastAsOftenAsAnyOtherStrategy) {
  const Case& c = kCases[3];
  const ExpertCounts counts = counts_of(c);
  for (int64_t budget = 0; budget <= moe_layers(c) * c.experts; budget += 61) {
    const double best = hit_rate(place("frequency", {c.moe, c.experts, budget, &counts}), counts);
    for (const std::string_view other : placement_strategies())
      EXPECT_GE(best, hit_rate(place(other, {c.moe, c.experts, budget, &counts}), counts)) << other << ' ' << budget;
  }
}

TEST(Placement, FrequencyWithoutCountsSaysHowToRecordThem) {
  EXPECT_THAT(refusal([] {
                place("frequency", {{true}, 4, 2, nullptr});
              }),
              AllOf(HasSubstr("init-expert-location"), HasSubstr("/dump_expert_distribution_record")));
}

TEST(Placement, FrequencyRefusesCountsThatAreAllZero) {
  const ExpertCounts nothing{1, 4, {0, 0, 0, 0}};

  EXPECT_THAT(refusal([&] { place("frequency", {{true}, 4, 2, &nothing}); }), HasSubstr("all zero"));
}

TEST(Placement, CountsOfAnotherModelAreRefusedWithBothShapes) {
  const ExpertCounts counts{1, 4, {1, 2, 3, 4}};

  EXPECT_THAT(refusal([&] {
                place("frequency", {{true, true}, 8, 2, &counts});
              }),
              AllOf(HasSubstr("1 layers of 4"), HasSubstr("2 layers of 8")));
}

TEST(Placement, AnUnknownStrategyIsRefusedWithThoseThereAre) {
  EXPECT_THAT(refusal([] {
                place("unifrom", {{true}, 4, 2, nullptr});
              }),
              HasSubstr("uniform, frequency, front-loading, random"));
}

TEST(Placement, ABudgetBeyondAllExpertsIsRefused) {
  EXPECT_THAT(refusal([] { place("uniform", {{true, false}, 4, 5, nullptr}); }), HasSubstr("0 to 4"));
}

// The sets are part of what a run can be repeated from: another generator or seed would change them.
TEST(Placement, RandomChoosesTheSameExpertsForEver) {
  EXPECT_THAT(place("random", {{true, true}, 8, 6, nullptr}), ElementsAre(ElementsAre(1, 2, 4, 5, 6), ElementsAre(6)));
}

TEST(Placement, RandomTakesFromAllLayers) {
  const HotSets hot = place("random", {std::vector<bool>(40, true), 64, 1280, nullptr});

  for (const auto& layer : hot) EXPECT_NEAR(std::ssize(layer), 32, 16);  // 4 standard deviations
}

TEST(HotBudget, IsThePerLayerNumberInEveryMoeLayer) { EXPECT_EQ(hot_budget(3, {}, 5, 8), 15); }

TEST(HotBudget, IsZeroWhenNothingIsAskedFor) { EXPECT_EQ(hot_budget({}, {}, 5, 8), 0); }

TEST(HotBudget, TheRatioGoesBeforeTheNumber) { EXPECT_EQ(hot_budget(8, 0.5, 5, 8), 20); }

TEST(HotBudget, TheRatioIsRoundedDownInDecimal) {
  EXPECT_EQ(hot_budget({}, 0.1, 3, 8), 2);
  EXPECT_EQ(hot_budget({}, 0.29, 1, 100), 29);
  EXPECT_EQ(hot_budget({}, 1.0, 58, 256), 58 * 256);
  EXPECT_EQ(hot_budget({}, 0.0, 58, 256), 0);
}

TEST(HotBudget, RefusesWhatThereIsNot) {
  EXPECT_THAT(refusal([] { hot_budget(9, {}, 5, 8); }), HasSubstr("expected 0 to 8"));
  EXPECT_THAT(refusal([] { hot_budget(-1, {}, 5, 8); }), HasSubstr("expected 0 to 8"));
  EXPECT_THAT(refusal([] { hot_budget({}, 1.01, 5, 8); }), HasSubstr("expected 0 to 1"));
  EXPECT_THAT(refusal([] { hot_budget({}, std::nan(""), 5, 8); }), HasSubstr("expected 0 to 1"));
}

TEST(HitRate, IsTheShareOfChoicesThatFellOnHotExperts) {
  const ExpertCounts counts{2, 2, {1, 3, 4, 2}};

  EXPECT_DOUBLE_EQ(hit_rate({{1}, {0}}, counts), 0.7);
  EXPECT_DOUBLE_EQ(hit_rate({{}, {}}, counts), 0.0);
  EXPECT_DOUBLE_EQ(hit_rate({{0}}, {1, 1, {0}}), 0.0);
}

}  // namespace
}  // namespace kt
