#include "runtime/supervise/restart.h"

#include <gtest/gtest.h>

namespace kt {
namespace {

constexpr int kMost = 10;

TEST(Restart, WhatAnotherStartMayCureIsStartedAgain) {
  for (const int code : {70, 71, 75, 77, 205, 255, 128 + 6, 128 + 9, 128 + 11, 128 + 15}) {
    RestartHistory history;
    const Verdict verdict = judge({.code = code, .took_port = code == 255}, 0, kMost, history);
    EXPECT_TRUE(verdict.again) << code;
    EXPECT_EQ(verdict.delay_s, 1) << code;
  }
}

TEST(Restart, WhatAnotherStartWouldNotChangeEndsWithItsOwnCode) {
  for (const int code : {0, 1, 2, 64, 69, 127, 128, 193, 204, 255}) {
    RestartHistory history;
    const Verdict verdict = judge({.code = code, .took_port = code != 255}, 0, kMost, history);
    EXPECT_FALSE(verdict.again) << code;
    EXPECT_EQ(verdict.code, code);
  }
}

TEST(Restart, DelaysDoubleUpToAMinuteAndBeginAnewAfterAMinuteOfService) {
  RestartHistory history;
  std::vector<double> delays;
  for (int i = 0; i < 8; ++i) delays.push_back(judge({.code = 70, .served_s = 59}, i, 100, history).delay_s);
  delays.push_back(judge({.code = 70, .served_s = 60}, 9, 100, history).delay_s);
  delays.push_back(judge({.code = 70}, 10, 100, history).delay_s);

  EXPECT_EQ(delays, (std::vector<double>{1, 2, 4, 8, 16, 32, 60, 60, 1, 2}));
}

TEST(Restart, TooManyInAnHourEndWithTheLastCodeHoweverLongEachServed) {
  RestartHistory history;
  const auto again = [&](double now_s) { return judge({.code = 71, .served_s = 600}, now_s, 3, history); };
  for (const double now_s : {0, 1000, 2000}) EXPECT_TRUE(again(now_s).again);

  const Verdict fourth = again(3599);
  EXPECT_FALSE(fourth.again);
  EXPECT_EQ(fourth.code, 71);

  EXPECT_TRUE(again(3600).again) << "the first one is an hour old";
  EXPECT_FALSE(again(4599).again);
}

TEST(Restart, NoneIsMadeWhereNoneIsAllowed) {
  RestartHistory history;
  EXPECT_FALSE(judge({.code = 70}, 0, 0, history).again);
}

// mpirun and srun have exit codes of their own for a machine that does not answer any more.
TEST(Restart, AJobThatCannotBeStartedAgainEndsWithTheFaultBeforeIt) {
  RestartHistory history;
  ASSERT_TRUE(judge({.code = 70, .took_port = true, .served_s = 100}, 0, kMost, history).again);
  EXPECT_EQ(judge({.code = 1}, 1, kMost, history).code, 70);
  EXPECT_EQ(judge({.code = 1, .took_port = true}, 1, kMost, history).code, 1) << "it was started";
  EXPECT_EQ(judge({.code = 2}, 1, kMost, history).code, 2) << "the server's own word";

  RestartHistory first;
  EXPECT_EQ(judge({.code = 1}, 0, kMost, first).code, 1) << "nothing was before it";
}

}  // namespace
}  // namespace kt
