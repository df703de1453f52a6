#include "runtime/serve/http/metrics.h"

#include <fmt/format.h>
#include <gmock/gmock.h>

#include <algorithm>

#include "runtime/policy/expert_load.h"
#include "runtime/policy/expert_metrics.h"
#include "runtime/policy/expert_policy.h"
#include "runtime/serve/http/status.h"
#include "runtime/serve/json.h"
#include "tests/serve/fakes.h"

namespace kt {
namespace {

using testing::HasSubstr;

// A job with everything in use: 4 trunk ranks, 60 expert ranks, 61 layers.
struct LargeJob {
  static constexpr int kRanks = 64, kTrunks = 4, kLayers = 61, kExperts = 384;

  LargeJob() {
    ExpertWorkers workers{.layers = kLayers, .experts = kExperts, .hidden = 7168, .groups = 30};
    for (int r = 0; r < kRanks; ++r) {
      model.ranks.push_back({r / 2, r < kTrunks ? "trunk" : "expert", size_t{1} << 40, 0});
      if (r < kTrunks) workers.trunk.push_back({r, 512});
      if (r >= kTrunks) workers.banks.push_back({r, 1024, (r - kTrunks) / 2});
      for (PhaseTotals& phase : stats.step_totals.emplace_back()) {
        phase = {.steps = 1, .rows = 1, .sent_bytes = 1, .parts = {}};
        for (int p = 0; p < kStepParts; ++p) {
          const StepPart part = static_cast<StepPart>(p);
          const bool of_experts = part == StepPart::experts || part == StepPart::wait || part == StepPart::other;
          if (r < kTrunks || of_experts) phase[part] = {1.0, part == StepPart::wait ? 0.0 : 1.0};
        }
      }
    }
    hot.assign(kLayers, {0});
    load.emplace(std::move(workers), &hot);
    load->after({}, {.counts = std::vector<int32_t>(kLayers * kExperts, 1)});
    const ExpertStats experts{.hot_per_layer = std::vector<int>(kLayers, 1)};
    model.more_metrics = [this, experts] { return to_prometheus(experts) + load->to_prometheus(stats.step_totals); };
    for (const int status : {200, 400, 401, 403, 404, 405, 408, 413, 429, 431, 499, 500, 503, 504, 529})
      for (const char* reason : {"", "stop", "length", "abort", "error"}) metrics.requests[{status, reason}] = 1;
  }
  std::string text() const { return to_prometheus(metrics, stats, "9.8.7", model); }

  HotSets hot;
  std::optional<ExpertLoad> load;
  ServedModel model;
  EngineStats stats;
  Metrics metrics;
};

TEST(Status, IsSmallAt64RanksAndSaysWhatRanksDo) {
  LargeJob job;
  job.model.name = "m";
  job.model.expert_status = [] {
    return to_json(ExpertStats{.hot_experts = 2, .experts = 8, .pairs = 4, .hot_pairs = 1, .hot_per_layer = {0, 2}});
  };
  job.stats.step_totals[63] = {};

  const std::string text = status_json(job.stats, "ok", job.model);
  const Json status = Json::parse(text);

  EXPECT_LT(text.size(), 12000u);
  EXPECT_EQ(status["status"], "ok");
  EXPECT_EQ(status["model"], "m");
  EXPECT_EQ(status["experts"].dump(), R"({"all":8,"hot":2,"hot_by_layer":[0,2],"hit_ratio":0.25,"exchanges":0})");
  ASSERT_EQ(status["ranks"].size(), 64u);
  EXPECT_EQ(status["ranks"][63].dump(), R"({"node":31,"role":"expert","memory_bytes":1099511627776})") << "idle so far";
  // An expert rank: one second each in experts, wait and other, of which waiting reads nothing, in two phases.
  EXPECT_EQ(status["ranks"][4]["bytes_per_second"], 1.0);
  EXPECT_NEAR(status["ranks"][4]["waited_ratio"].get<double>(), 1.0 / 3, 1e-9);
}

TEST(Status, OfExpertsHasADigitForEach) {
  ExpertMap map{.moe = {false, true, true}, .hot = {{}, {1}, {}}, .use = {3, 3, {0, 0, 0, 8, 100, 0, 0, 0, 0}}};
  map.counted = true;
  EXPECT_EQ(to_json(map), R"({"experts":3,"layers":[1,2],"hot":[[1],[]],"use":["190","000"]})");
  map.counted = false;
  EXPECT_EQ(to_json(map), R"({"experts":3,"layers":[1,2],"hot":[[1],[]]})");
}

TEST(Metrics, HaveAtMost5000SeriesAt64Ranks) {
  const std::string text = LargeJob().text();

  size_t series = 0;
  for (size_t at = 0; at < text.size(); at = text.find('\n', at) + 1) series += text[at] != '#';
  EXPECT_LE(series, 5000u);
  EXPECT_GT(series, 1000u) << "not all is in use";
}

TEST(Metrics, CountersEndInTotalAndNothingElseDoes) {
  std::istringstream lines(LargeJob().text());
  int counters = 0;
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with("# TYPE ")) continue;
    const std::string name = line.substr(7, line.rfind(' ') - 7), type = line.substr(line.rfind(' ') + 1);
    EXPECT_EQ(type == "counter", name.ends_with("_total")) << line;
    counters += type == "counter";
  }
  EXPECT_GT(counters, 15);
}

TEST(Metrics, HaveTheNamesOfTheField) {
  const std::string text = LargeJob().text();

  for (const char* name : {"requests_running",
                           "requests_waiting",
                           "requests_swapped",
                           "requests_total",
                           "prompt_tokens_total",
                           "generation_tokens_total",
                           "time_to_first_token_seconds",
                           "inter_token_latency_seconds",
                           "e2e_request_latency_seconds",
                           "queue_time_seconds",
                           "kv_cache_usage_ratio",
                           "prefix_cache_hits_total",
                           "prefix_cache_evicted_tokens_total",
                           "prefix_cache_queries_total",
                           "step_seconds",
                           "step_age_seconds",
                           "batch_tokens",
                           "expert_tokens_total",
                           "expert_imbalance_ratio",
                           "rank_wait_seconds_total",
                           "alltoall_bytes_total",
                           "alltoall_seconds_total",
                           "numa_misplaced_pages",
                           "cpu_gemm_gflops",
                           "restarts_total",
                           "build_info",
                           "rank_memory_bytes"})
    EXPECT_THAT(text, HasSubstr(fmt::format("# TYPE ktmpi_{} ", name)));
}

}  // namespace
}  // namespace kt
