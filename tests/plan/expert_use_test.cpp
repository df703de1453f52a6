#include "runtime/plan/expert_use.h"

#include <gtest/gtest.h>

#include <numeric>
#include <random>

#include "tests/plan/releases.h"
#include "tests/refusal_of.h"

namespace kt {
namespace {

double sum(const std::vector<double>& v) { return std::accumulate(v.begin(), v.end(), 0.0); }

MoeSpec moe(int experts, int top_k) {
  MoeSpec spec;
  spec.experts = experts, spec.top_k = top_k;
  return spec;
}

TEST(ExpertUse, ChancesAddUpToTopKHoweverSkewed) {
  for (const double skew : {0.0, 0.5, 1.0, 4.0}) {
    const Chances chances = skewed_chances(moe(64, 8), skew);
    EXPECT_NEAR(sum(chances), 8, 1e-9) << skew;
    for (const double q : chances) EXPECT_LE(q, 1) << skew;
  }
  const Chances even = skewed_chances(moe(64, 8), 0);
  for (const double q : even) EXPECT_NEAR(q, 8.0 / 64, 1e-12);
}

TEST(ExpertUse, OneRowWantsTopKExpertsAndManyRowsAllOfThem) {
  const Chances chances = uniform_chances(moe(64, 8));
  EXPECT_NEAR(loads_of_groups(chances, 1, 1).wanted, 8, 1e-9);
  EXPECT_NEAR(loads_of_groups(chances, 1, 1000).wanted, 64, 1e-6);
  EXPECT_NEAR(sum(loads_of_groups(chances, 4, 7).experts), loads_of_groups(chances, 1, 7).wanted, 1e-9);
}

// By hand: of 2 groups one has all of the use.
TEST(ExpertUse, AGroupWithTheUsedExpertsHasAllOfTheLoad) {
  const Chances chances = {1, 0, 1, 0};
  const GroupLoads loads = loads_of_groups(chances, 2, 10);

  EXPECT_EQ(loads.experts, (std::vector<double>{2, 0}));
  EXPECT_EQ(loads.pairs, (std::vector<double>{20, 0}));
  EXPECT_EQ(loads.reached, (std::vector<double>{10, 0}));
  EXPECT_DOUBLE_EQ(imbalance(loads), 2);
}

TEST(ExpertUse, TheLargestOfNormalValuesIsAsInTables) {
  EXPECT_NEAR(largest_normal(1), 0, 1e-6);
  EXPECT_NEAR(largest_normal(2), 0.56419, 1e-4);
  EXPECT_NEAR(largest_normal(4), 1.02938, 1e-4);
  EXPECT_NEAR(largest_normal(16), 1.76599, 1e-4);
}

// Against random choices: k of E without repetition for each row.
TEST(ExpertUse, TheFullestGroupIsAsFullAsRandomChoicesMakeIt) {
  constexpr int kExperts = 64, kTopK = 8, kTrials = 4000;
  std::mt19937_64 random(1);
  for (const int groups : {2, 4, 8})
    for (const int rows : {1, 4, 16}) {
      double fullest = 0;
      std::vector<int> ids(kExperts);
      std::iota(ids.begin(), ids.end(), 0);
      for (int trial = 0; trial < kTrials; ++trial) {
        std::vector<bool> wanted(kExperts);
        for (int r = 0; r < rows; ++r)
          for (int j = 0; j < kTopK; ++j) {
            std::swap(ids[static_cast<size_t>(j)],
                      ids[static_cast<size_t>(j) + random() % static_cast<size_t>(kExperts - j)]);
            wanted[static_cast<size_t>(ids[static_cast<size_t>(j)])] = true;
          }
        std::vector<int> of_group(static_cast<size_t>(groups), 0);
        for (size_t e = 0; e < wanted.size(); ++e) of_group[e % static_cast<size_t>(groups)] += wanted[e];
        fullest += static_cast<double>(*std::max_element(of_group.begin(), of_group.end())) / kTrials;
      }

      const GroupLoads loads = loads_of_groups(uniform_chances(moe(kExperts, kTopK)), groups, rows);

      EXPECT_NEAR(loads.experts[0] + loads.more_experts, fullest, 0.06 * fullest) << groups << " groups, " << rows;
    }
}

TEST(ExpertUse, ARecordingGivesEachLayerItsOwnChances) {
  const LoadedConfig model = loaded(deepseek_v32());  // three dense layers of 61
  ExpertCounts counts{.layers = 61, .experts = 256, .counts = std::vector<uint64_t>(61 * 256, 0)};
  for (size_t l = 3; l < 61; ++l)
    for (size_t e = 0; e < 256; ++e) counts.counts[l * 256 + e] = e < 16 ? l : 0;

  const std::vector<Chances> chances = recorded_chances(counts, model.config);

  EXPECT_TRUE(chances[2].empty());
  EXPECT_NEAR(chances[3][0], 0.5, 1e-12);
  EXPECT_EQ(chances[60][16], 0);
  // 16 experts of 256 over 2 groups: a group reads 8 of them at most, where all alike would be 128.
  EXPECT_NEAR(loads_of_groups(chances[3], 2, 1000).wanted, 16, 1e-6);
}

TEST(ExpertUse, ARecordingOfAnotherModelIsRefused) {
  const LoadedConfig model = loaded(deepseek_v32());
  ExpertCounts counts{.layers = 2, .experts = 4, .counts = std::vector<uint64_t>(8, 1)};
  EXPECT_EQ(refusal_of([&] { recorded_chances(counts, model.config); }, kExitUsage),
            "trace: expected counts of 61 layers of 256 experts, found 2 of 4");
  counts = {.layers = 61, .experts = 256, .counts = std::vector<uint64_t>(61 * 256, 0)};
  EXPECT_EQ(refusal_of([&] { recorded_chances(counts, model.config); }, kExitUsage),
            "trace: layer 3 has experts, and none of them was ever chosen");
}

}  // namespace
}  // namespace kt
