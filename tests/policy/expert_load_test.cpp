#include "runtime/policy/expert_load.h"

#include <fmt/format.h>
#include <gmock/gmock.h>

namespace kt {
namespace {

using testing::HasSubstr;
using testing::Not;

// A trunk rank, and two expert ranks that hold whole experts: the even ones and the odd ones. Layer 0 is dense.
const ExpertWorkers kWorkers{.layers = 2,
                             .experts = 4,
                             .hidden = 10,
                             .groups = 2,
                             .banks = {{.rank = 1, .columns = 5, .group = 0}, {.rank = 2, .columns = 5, .group = 1}},
                             .trunk = {{.rank = 0, .columns = 5}}};

TEST(ExpertLoad, GivesEveryPairToTheRankThatComputesIt) {
  const HotSets hot = {{}, {3}};
  ExpertLoad load(kWorkers, &hot);
  StepOrders orders;
  load.before({}, orders);
  EXPECT_TRUE(orders.counts);

  load.after({}, {.counts = {0, 0, 0, 0, 1, 20, 300, 4000}});
  std::vector<StepTotals> totals(3);
  totals[1][0][StepPart::experts].seconds = 2e-6;
  totals[1][1][StepPart::experts].seconds = 1e-6;
  const std::string text = load.to_prometheus(totals);

  EXPECT_THAT(text, HasSubstr("ktmpi_expert_tokens_total{layer=\"1\",rank=\"0\"} 4000\n"));
  EXPECT_THAT(text, HasSubstr("ktmpi_expert_tokens_total{layer=\"1\",rank=\"1\"} 301\n"));
  EXPECT_THAT(text, HasSubstr("ktmpi_expert_tokens_total{layer=\"1\",rank=\"2\"} 20\n"));
  EXPECT_THAT(text, Not(HasSubstr("layer=\"0\"")));
  EXPECT_THAT(text, HasSubstr(fmt::format("ktmpi_expert_imbalance_ratio {}\n", 301 / 160.5)));
  EXPECT_THAT(text, HasSubstr(fmt::format("ktmpi_cpu_gemm_gflops{{rank=\"1\"}} {}\n", 300.0 * 301 / 3e-6 / 1e9)));
}

TEST(ExpertLoad, ALayerwiseStepIsTheTrunks) {
  const HotSets hot = {{}, {}};
  ExpertLoad load(kWorkers, &hot);

  load.after({.orders = {.layerwise = true}}, {.counts = {0, 0, 0, 0, 1, 2, 3, 4}});

  const std::string text = load.to_prometheus({});
  EXPECT_THAT(text, HasSubstr("ktmpi_expert_tokens_total{layer=\"1\",rank=\"0\"} 10\n"));
  EXPECT_THAT(text, Not(HasSubstr("rank=\"1\"")));
  EXPECT_THAT(text, HasSubstr("ktmpi_expert_imbalance_ratio 1\n"));
}

TEST(ExpertLoad, AddsLayersUpWhereTheyWouldBeTooMany) {
  ExpertWorkers workers{.layers = 61, .experts = 1, .hidden = 10};
  for (int r = 0; r < 64; ++r) workers.banks.push_back({r, 5});
  const HotSets hot(61);
  ExpertLoad load(workers, &hot);

  load.after({}, {.counts = std::vector<int32_t>(61, 2)});

  EXPECT_THAT(load.to_prometheus({}), HasSubstr("ktmpi_expert_tokens_total{layer=\"all\",rank=\"63\"} 122\n"));
  EXPECT_THAT(load.to_prometheus({}), Not(HasSubstr("layer=\"60\"")));
}

}  // namespace
}  // namespace kt
