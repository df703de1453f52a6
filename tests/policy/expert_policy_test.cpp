#include "runtime/policy/expert_policy.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace kt {
namespace {

constexpr int kExperts = 8;
const HotSets kStart = {{}, {0, 1, 2}};  // the first layer is dense

ExpertPolicy policy(UpdateRule rule, int64_t spare) {
  return ExpertPolicy({.moe = {false, true},
                       .experts = kExperts,
                       .hot = kStart,
                       .spare = spare,
                       .prefill_threshold = 4,
                       .max_rows = 100,
                       .update = rule});
}

// A prompt of so many tokens.
StepPlan prompt(int rows) {
  StepPlan plan;
  plan.slices.push_back({.count = rows, .logits_from = rows});
  plan.tokens.resize(static_cast<size_t>(rows));
  return plan;
}

// What a step of which only experts 5, 6 and 7 were chosen, all alike, reports.
StepReport report(bool arrived) {
  StepReport r{.arrived = arrived};
  r.counts.resize(2 * kExperts);
  for (int e : {5, 6, 7}) r.counts[kExperts + e] = 50;
  return r;
}

StepOrders step(ExpertPolicy& p, int rows, bool arrived) {
  const StepPlan plan = prompt(rows);
  StepOrders orders;
  p.before(plan, orders);
  p.after(plan, report(arrived));
  return orders;
}

TEST(ExpertPolicy, ExpertsThatComeBesideStepsTakeOverWhenAllTrunkRanksHaveThem) {
  ExpertPolicy p = policy(UpdateRule::average, 2);
  EXPECT_EQ(step(p, 50, false).moves.size(), 3u);  // the first ones, at once

  const StepOrders first = step(p, 50, false);
  EXPECT_EQ(std::count_if(first.bring.begin(), first.bring.end(), [](auto& m) { return m.in >= 0; }), 2)
      << "as many as there is room for";
  EXPECT_FALSE(first.take_over);
  EXPECT_EQ(p.hot_now(), kStart);

  for (int i = 0; i < 3; ++i) {  // on their way
    const StepOrders waiting = step(p, 1, i == 2);
    EXPECT_TRUE(waiting.bring.empty() && waiting.moves.empty() && !waiting.take_over);
    EXPECT_EQ(p.hot_now(), kStart);
  }
  const StepOrders next = step(p, 1, false);
  EXPECT_TRUE(next.take_over);
  EXPECT_EQ(p.stats().exchanges, 2u);
  EXPECT_EQ(p.hot_now()[1].size(), 3u);
  EXPECT_EQ(std::count_if(next.bring.begin(), next.bring.end(), [](auto& m) { return m.in >= 0; }), 1) << "the third";
}

TEST(ExpertPolicy, ForTestsExchangesHappenBeforeEveryStepAndTheirCopiesBesideTheOneBefore) {
  ExpertPolicy p = policy(UpdateRule::shuffle, 3);
  step(p, 50, false);
  EXPECT_EQ(step(p, 50, false).bring.size(), 1u);
  for (int i = 0; i < 5; ++i) {
    const HotSets before = p.hot_now();
    const StepOrders orders = step(p, 1, false);
    EXPECT_TRUE(orders.take_over);
    EXPECT_EQ(orders.bring.size(), 1u);
    EXPECT_NE(p.hot_now(), before);
  }
}

TEST(ExpertPolicy, TheRuleOfOneChunkMovesEverythingBeforeTheNextStep) {
  ExpertPolicy p = policy(UpdateRule::chunk, 0);
  step(p, 50, false);
  const StepOrders orders = step(p, 50, false);
  EXPECT_EQ(orders.moves.size(), 3u);
  EXPECT_TRUE(orders.bring.empty() && !orders.take_over);
  EXPECT_EQ(p.hot_now(), (HotSets{{}, {5, 6, 7}}));
}

TEST(ExpertPolicy, APromptAtTheThresholdIsLayerwiseAndAnswersDoNotCount) {
  ExpertPolicy p = policy(UpdateRule::chunk, 0);
  EXPECT_FALSE(step(p, 3, false).layerwise);
  EXPECT_TRUE(step(p, 4, false).layerwise);
  StepPlan mixed = prompt(3);
  mixed.slices.push_back({.slot = 1, .first = 70, .count = 1, .logits_from = 0});
  mixed.tokens.resize(4);
  StepOrders orders;
  p.before(mixed, orders);
  EXPECT_FALSE(orders.layerwise);
}

TEST(ExpertPolicy, StepsOfFewRowsAreSlicedOnReplicatedBanks) {
  ExpertPolicy p({.moe = {false, true}, .experts = kExperts, .hot = {{}, {}}, .replicated = true, .sliced_below = 3});
  EXPECT_TRUE(step(p, 2, false).sliced);
  EXPECT_FALSE(step(p, 3, false).sliced);
  EXPECT_EQ(p.stats().sliced_below, 3);
}

TEST(ExpertPolicy, PrefillsOfTheUpdateThresholdReChooseWhateverPathTheyTake) {
  ExpertPolicy p({.moe = {false, true},
                  .experts = kExperts,
                  .hot = kStart,
                  .prefill_threshold = 0,
                  .update_threshold = 40,
                  .max_rows = 100,
                  .update = UpdateRule::chunk});
  step(p, 50, false);

  const StepOrders after_long = step(p, 39, false);
  const StepOrders after_short = step(p, 39, false);

  EXPECT_FALSE(after_long.moves.empty());
  EXPECT_FALSE(after_long.layerwise);
  EXPECT_TRUE(after_short.moves.empty());
}

}  // namespace
}  // namespace kt
