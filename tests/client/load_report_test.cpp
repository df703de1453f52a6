#include "runtime/client/load_report.h"

#include <gtest/gtest.h>

namespace kt {
namespace {

TEST(LoadReport, PercentilesAreNumpys) {
  EXPECT_DOUBLE_EQ(percentile({1, 2, 3, 4}, 0.5), 2.5);
  EXPECT_DOUBLE_EQ(percentile({1, 2, 3, 4}, 0.99), 3.97);
  EXPECT_DOUBLE_EQ(percentile({7}, 0.99), 7);
  EXPECT_DOUBLE_EQ(percentile({1, 2}, 1), 2);
}

TEST(LoadReport, CountsCompleteRequestsOnly) {
  LoadResult load{.duration = 4, .most_concurrent = 2};
  load.records.push_back(
      {.prompt_tokens = 10, .output_tokens = 3, .sent = 1, .first = 1.5, .last = 2.5, .gaps = {0.4, 0.6}});
  load.records.push_back({.prompt_tokens = 6, .output_tokens = 1, .sent = 2, .first = 3.5, .last = 3.5});
  load.records.push_back(
      {.error = "429", .prompt_tokens = 100, .output_tokens = 100, .sent = 0, .first = 9, .last = 9});

  const auto report = load_report(load);

  EXPECT_EQ(report["completed"], 2);
  EXPECT_EQ(report["failed"], 1);
  EXPECT_EQ(report["total_input_tokens"], 16);
  EXPECT_EQ(report["total_output_tokens"], 4);
  EXPECT_DOUBLE_EQ(report["request_throughput"], 0.5);
  EXPECT_DOUBLE_EQ(report["output_throughput"], 1);
  EXPECT_DOUBLE_EQ(report["total_token_throughput"], 5);
  EXPECT_DOUBLE_EQ(report["mean_ttft_ms"], 1000);
  EXPECT_DOUBLE_EQ(report["std_ttft_ms"], 500);
  EXPECT_DOUBLE_EQ(report["mean_tpot_ms"], 500);  // of the one with more than one token
  EXPECT_DOUBLE_EQ(report["median_itl_ms"], 500);
  EXPECT_DOUBLE_EQ(report["mean_e2el_ms"], 1500);
}

TEST(LoadReport, WhatWasNotMeasuredIsNull) {
  LoadResult load{.duration = 1};
  load.records.push_back({.error = "refused"});

  const auto report = load_report(load);

  EXPECT_TRUE(report["mean_ttft_ms"].is_null());
  EXPECT_TRUE(report["p99_itl_ms"].is_null());
  EXPECT_EQ(report["output_throughput"], 0);
}

}  // namespace
}  // namespace kt
