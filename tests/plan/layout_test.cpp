#include "runtime/plan/layout.h"

#include <gmock/gmock.h>

#include "runtime/plan/plan.h"
#include "tests/plan/releases.h"

namespace kt {
namespace {

using testing::HasSubstr;

constexpr int kChunk = 2048;

Hardware machines(double network_gbs) {
  Hardware h;
  h.memory_bandwidth_gbs = 200;
  h.cpu_tflops = 10;
  h.network_gbs = network_gbs;
  h.network_latency_us = 5;
  return h;
}

// A trunk rank on the first machine, and as many expert ranks on each.
LayoutChoice choose(const LoadedConfig& model, const Hardware& hardware, int nodes, int ranks_each) {
  std::vector<int> node_of = {0};
  for (int node = 0; node < nodes; ++node) node_of.insert(node_of.end(), static_cast<size_t>(ranks_each), node);
  return choose_layout(model.config, Format::BF16, hardware, kChunk, WireType::float64, [&](std::string_view layout) {
    return plan_topology({.tensor_parallel = 1, .experts_per_node = ranks_each, .expert_layout = layout}, 0, node_of);
  });
}

TEST(Layout, OneMachineCutsEveryExpertBecauseThatReadsEvenly) {
  const LayoutChoice choice = choose(loaded(deepseek_v32()), machines(0), 1, 4);

  EXPECT_EQ(choice.layout, "hybrid");
  EXPECT_THAT(choice.why, HasSubstr("slice: "));
  EXPECT_THAT(choice.why, HasSubstr("expert: "));
}

TEST(Layout, WholeExpertsGoToMoreRanksThanAnExpertHasSlices) {
  const LoadedConfig next = loaded(qwen3_coder_next(false));  // 512 columns, 4 slices
  EXPECT_EQ(choose(next, machines(0), 1, 4).layout, "hybrid");
  EXPECT_EQ(choose(next, machines(0), 1, 16).layout, "expert");
}

TEST(Layout, ASlowNetworkKeepsRowsFromMachinesThatHaveNoneOfTheirExperts) {
  const LoadedConfig deepseek = loaded(deepseek_v32());
  EXPECT_EQ(choose(deepseek, machines(0.2), 16, 1).layout, "hybrid");
  EXPECT_EQ(choose(deepseek, machines(1000), 16, 1).layout, "slice");
}

// Of 8 experts the fullest of 7 machines has 2, of the pieces of all one has 8 / 7; with many rows whole experts are as
// even, and take less of the network.
TEST(Layout, FewRowsAreSlicedOnReplicatedBanksAndManyAreNot) {
  const LoadedConfig deepseek = loaded(deepseek_v32());
  const auto on = [&](int nodes, double network_gbs) {
    std::vector<int> node_of = {0};
    for (int node = 0; node < nodes; ++node) node_of.push_back(node);
    const Topology topology =
        plan_topology({.tensor_parallel = 1, .experts_per_node = 1, .replicated = true}, 0, node_of);
    return choose_sliced({}, deepseek.config, Format::BF16, machines(network_gbs), topology, 2048);
  };
  const SliceChoice seven = on(7, 10);
  EXPECT_GT(seven.below, 1);
  EXPECT_LT(seven.below, 64);
  EXPECT_THAT(sliced_line(seven), HasSubstr("rows are sliced (1 row: "));
  EXPECT_THAT(sliced_line(on(2, 10)), HasSubstr("steps are of whole experts"));
  EXPECT_EQ(on(2, 10).below, 0);    // 4 each, and fewer messages
  EXPECT_EQ(on(7, 0.01).below, 0);  // rows to all machines take longer than what they save
}

TEST(Layout, WithoutRatesItIsTheDefault) {
  const LayoutChoice choice = choose(loaded(deepseek_v32()), Hardware(), 2, 2);
  EXPECT_EQ(choice.layout, "hybrid");
  EXPECT_THAT(choice.why, HasSubstr("memory-bandwidth-gbs"));
}

TEST(Layout, AutoIsInThePlan) {
  RunConfig run;
  run.expert_layout = "auto";
  run.kt_threadpool_count = 16;
  Hardware hardware = machines(0);
  hardware.memory_gb = 1000;
  const LoadedConfig next = loaded(qwen3_coder_next(false));

  const ClusterPlan plan = plan_cluster(run, next, Format::BF16, hardware, std::nullopt);

  EXPECT_EQ(plan.layout.layout, "expert");
  EXPECT_EQ(plan.ranks.back().bank.groups, 16);
  EXPECT_THAT(to_text(plan), HasSubstr("expert-layout auto: expert (hybrid: "));
}

}  // namespace
}  // namespace kt
