#include "runtime/engine/prefill_pace.h"

#include <gtest/gtest.h>

#include <limits>

#include "runtime/step/step.h"

namespace kt {
namespace {

constexpr int kUnbounded = std::numeric_limits<int>::max();

TEST(PrefillPace, BoundsNothingWhenNotAsked) {
  PrefillPace pace(0);
  pace.ran(64, 0, 1000.0);

  EXPECT_EQ(pace.prefill_tokens(), kUnbounded);
}

TEST(PrefillPace, FindsTheCostOfAStepAndOfAToken) {
  PrefillCostFit fit;
  for (const int tokens : {2048, 64, 512, 128}) fit.add(tokens, 0.3 + 0.001 * tokens);

  EXPECT_NEAR(fit.cost().step_s, 0.3, 1e-9);
  EXPECT_NEAR(fit.cost().token_s, 0.001, 1e-12);
  EXPECT_EQ(tokens_within(fit.cost(), 0.5), 192);
  EXPECT_EQ(tokens_within(fit.cost(), 0.36), 0);
}

TEST(PrefillPace, CountsByTheTokenUntilSizesDiffer) {
  PrefillCostFit fit;
  fit.add(1024, 2.0);
  fit.add(1024, 2.0);

  EXPECT_EQ(fit.cost().step_s, 0.0);
  EXPECT_NEAR(fit.cost().token_s, 2.0 / 1024, 1e-12);
}

TEST(PrefillPace, NeverPredictsNegativeTimes) {
  PrefillCostFit falling, steep;
  for (int i = 0; i < 3; ++i) {
    falling.add(64, 2.0);
    falling.add(1024, 1.0);
    steep.add(64, 0.01);
    steep.add(1024, 4.0);
  }

  for (const PrefillCost cost : {falling.cost(), steep.cost()}) {
    EXPECT_EQ(cost.step_s, 0.0);
    EXPECT_GT(cost.token_s, 0.0);
  }
}

TEST(PrefillPace, FollowsACostThatChanges) {
  PrefillCostFit fit;
  for (int i = 0; i < 50; ++i) fit.add(64 + 64 * (i % 4), 1.0 * (64 + 64 * (i % 4)));
  for (int i = 0; i < 50; ++i) fit.add(64 + 64 * (i % 4), 0.001 * (64 + 64 * (i % 4)));

  EXPECT_NEAR(fit.cost().token_s, 0.001, 1e-4);
}

TEST(PrefillPace, TakesAnyNumbers) {
  EXPECT_EQ(tokens_within({.step_s = 0, .token_s = 0}, 1.0), kUnbounded / kBlockTokens * kBlockTokens);
  EXPECT_EQ(tokens_within({.step_s = 0, .token_s = 0}, 0.0), 0);
  EXPECT_EQ(tokens_within({.step_s = 0, .token_s = 1e-30}, 1e30), kUnbounded / kBlockTokens * kBlockTokens);
  EXPECT_EQ(tokens_within({.step_s = 1, .token_s = 1}, -5.0), 0);
}

// Without decode rows in the step: blocks as long as the time lasts, then the answers have a step.
TEST(PrefillPace, LetsPrefillGoOnUntilTheTimeIsUp) {
  PrefillPace pace(0.55);
  EXPECT_EQ(pace.prefill_tokens(), kBlockTokens) << "nothing is known yet";
  pace.ran(64, 0, 0.1);
  pace.ran(0, 3, 0.05);
  EXPECT_EQ(pace.prefill_tokens(), 320);

  pace.ran(192, 0, 0.3);
  EXPECT_EQ(pace.prefill_tokens(), 128);
  pace.ran(128, 0, 0.2);
  EXPECT_EQ(pace.prefill_tokens(), 0);
  pace.ran(0, 3, 0.05);
  EXPECT_EQ(pace.prefill_tokens(), 320);
}

TEST(PrefillPace, LetsABlockThroughHoweverLongItTakes) {
  PrefillPace pace(0.5);
  pace.ran(64, 0, 3.0);
  EXPECT_EQ(pace.prefill_tokens(), 0);
  pace.ran(0, 1, 0.1);
  EXPECT_EQ(pace.prefill_tokens(), kBlockTokens);
}

// Simulated clock: whatever a machine's cost, gaps stay below the bound after the first steps, and throughput is not
// thrown away: steps are nearly as long as they may be.
TEST(PrefillPace, SettlesOnTheLargestChunksWithinTheBound) {
  for (const PrefillCost real : {PrefillCost{0.3, 0.0005}, PrefillCost{0.0, 0.002}, PrefillCost{0.02, 0.0001}}) {
    for (const bool mixed : {false, true}) {
      PrefillPace pace(0.5);
      double stalled = 0, longest = 0, shortest = 1e9;
      for (int step = 0; step < 300; ++step) {
        const int tokens = std::min(pace.prefill_tokens(), 8192);
        const double seconds = real.step_s + real.token_s * tokens;
        if (tokens == 0 || mixed) {
          stalled += mixed ? seconds : 0;
          if (step > 20) {
            longest = std::max(longest, stalled);
            shortest = std::min(shortest, stalled);
          }
          stalled = 0;
        } else {
          stalled += seconds;
        }
        pace.ran(tokens, tokens == 0 || mixed ? 4 : 0, seconds);
      }
      EXPECT_LE(longest, 0.5 + 1e-6) << real.step_s << " " << real.token_s << " " << mixed;
      EXPECT_GE(shortest, 0.3) << real.step_s << " " << real.token_s << " " << mixed;
    }
  }
}

// The same machines: where a step costs 0.3 s before its first token, a bound of 0.5 s would leave prompts two fifths
// of their speed.
TEST(PrefillPace, IsPatientWhereAStepCostsMuchBeforeItsFirstToken) {
  for (const PrefillCost real : {PrefillCost{0.3, 0.0005}, PrefillCost{0.0, 0.002}, PrefillCost{0.02, 0.0001}}) {
    PrefillPace pace(0.5, 4);
    const double bound = std::max(0.5, 4 * real.step_s);
    double longest = 0;
    double tokens_done = 0, time = 0;
    for (int step = 0; step < 300; ++step) {
      const int tokens = std::min(pace.prefill_tokens(), 8192);
      const double seconds = real.step_s + real.token_s * tokens;
      pace.ran(tokens, 4, seconds);
      if (step <= 20) continue;
      longest = std::max(longest, seconds);
      tokens_done += tokens;
      time += seconds;
    }
    EXPECT_LE(longest, bound + 1e-6) << real.step_s;
    EXPECT_GE(tokens_done * real.token_s / time, real.step_s > 0.1 ? 0.7 : 0.9) << real.step_s;
  }
}

}  // namespace
}  // namespace kt
