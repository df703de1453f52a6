#include "runtime/placement/hot_update.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "runtime/base/error.h"

namespace kt {
namespace {

constexpr int kExperts = 8;
const HotSets kStart = {{0, 1}, {}, {0, 1}};  // the middle layer is dense

// Counts of a step in which some experts of some layers were chosen.
std::vector<int32_t> counts(std::vector<std::tuple<int, int, int>> chosen) {
  std::vector<int32_t> c(kStart.size() * kExperts);
  for (auto [layer, expert, times] : chosen) c[static_cast<size_t>(layer * kExperts + expert)] = times;
  return c;
}
size_t total(const HotSets& hot) {
  return std::accumulate(hot.begin(), hot.end(), size_t{0}, [](size_t n, const auto& l) { return n + l.size(); });
}

TEST(HotUpdate, ChunkTakesEachLayersMostChosenOfTheLastQualifyingPrefill) {
  HotUpdate update(UpdateRule::chunk, kStart, kExperts);
  update.observe(counts({{0, 5, 9}, {0, 0, 3}, {2, 6, 4}, {2, 7, 4}}), 100, true);
  EXPECT_EQ(update.take(100).size(), 3u);  // expert 0 of layer 0 stayed
  EXPECT_EQ(update.hot(), (HotSets{{0, 5}, {}, {6, 7}}));
}

TEST(HotUpdate, NothingChangesWithoutAQualifyingPrefill) {
  for (UpdateRule rule : {UpdateRule::chunk, UpdateRule::average}) {
    HotUpdate update(rule, kStart, kExperts);
    for (int i = 0; i < 10; ++i) update.observe(counts({{0, 5, 900}}), 100, false);
    EXPECT_TRUE(update.take(100).empty());
  }
}

TEST(HotUpdate, AverageRemembersDecodeAndLendsSlotsBetweenLayers) {
  HotUpdate update(UpdateRule::average, kStart, kExperts);
  for (int i = 0; i < 50; ++i) update.observe(counts({{0, 3, 1}, {0, 4, 1}, {0, 5, 1}, {2, 0, 1}}), 1, false);
  update.observe(counts({}), 1, true);
  update.take(100);
  EXPECT_EQ(update.hot(), (HotSets{{3, 4, 5}, {}, {0}}));
  EXPECT_EQ(total(update.hot()), total(kStart));
}

TEST(HotUpdate, AverageLeavesExpertsAloneThatAreAboutAsGood) {
  HotUpdate update(UpdateRule::average, kStart, kExperts);
  // All hot ones 100 times, the cold one a little more: less than the factor.
  update.observe(counts({{0, 0, 100}, {0, 1, 100}, {2, 0, 100}, {2, 1, 100}, {2, 2, 108}}), 10, true);
  EXPECT_TRUE(update.take(100).empty());
  // Three uses more than none at all: less than a copy costs.
  HotUpdate fresh(UpdateRule::average, kStart, kExperts);
  fresh.observe(counts({{0, 7, 3}}), 10, true);
  EXPECT_TRUE(fresh.take(100).empty());
}

TEST(HotUpdate, AverageForgetsAnOldTopic) {
  HotUpdate update(UpdateRule::average, kStart, kExperts);
  update.observe(counts({{0, 2, 500}, {0, 3, 500}, {2, 2, 500}, {2, 3, 500}}), 1000, true);
  update.take(100);
  EXPECT_EQ(update.hot(), (HotSets{{2, 3}, {}, {2, 3}}));
  for (int i = 0; i < 20; ++i) update.observe(counts({{0, 6, 100}, {0, 7, 100}, {2, 6, 100}, {2, 7, 100}}), 1000, true);
  update.take(100);
  EXPECT_EQ(update.hot(), (HotSets{{6, 7}, {}, {6, 7}}));
}

TEST(HotUpdate, TakesNoMoreThanTheLimitAndNeverHoldsMoreThanTheBudget) {
  for (UpdateRule rule : {UpdateRule::chunk, UpdateRule::average, UpdateRule::shuffle}) {
    HotUpdate update(rule, kStart, kExperts);
    update.observe(counts({{0, 4, 90}, {0, 5, 80}, {2, 6, 70}, {2, 7, 60}}), 100, true);
    HotSets hot = kStart;
    for (int i = 0; i < 10; ++i) {
      const std::vector<Exchange> some = update.take(1);
      EXPECT_LE(std::count_if(some.begin(), some.end(), [](const Exchange& x) { return x.in >= 0; }), 1);
      for (const Exchange& x : some) {  // as a trunk rank does it: leaving frees the slot that entering takes
        std::vector<int32_t>& set = hot[static_cast<size_t>(x.layer)];
        if (x.out >= 0) {
          ASSERT_EQ(std::erase(set, x.out), 1u);
        }
        if (x.in >= 0) {
          ASSERT_EQ(std::count(set.begin(), set.end(), x.in), 0);
          set.push_back(x.in);
        }
        ASSERT_LE(total(hot), total(kStart));
      }
    }
    for (auto& set : hot) std::sort(set.begin(), set.end());
    EXPECT_EQ(hot, update.hot());
    EXPECT_EQ(total(hot), total(kStart));
    EXPECT_NE(hot, kStart);
  }
}

TEST(HotUpdate, AveragesSurviveARestart) {
  HotUpdate before(UpdateRule::average, kStart, kExperts);
  before.observe(counts({{0, 6, 500}, {2, 7, 400}}), 10, false);
  HotUpdate after(UpdateRule::average, kStart, kExperts);
  after.restore(before.averages());
  after.observe(counts({}), 1, true);
  after.take(100);
  EXPECT_EQ(after.hot(), (HotSets{{0, 1, 6}, {}, {7}}));
  EXPECT_THROW(after.restore({.layers = 2, .experts = kExperts, .counts = std::vector<uint64_t>(16)}), Error);
}

}  // namespace
}  // namespace kt
