#include "runtime/plan/ranks.h"

#include <gtest/gtest.h>

#include "runtime/base/error.h"
#include "runtime/checkpoint/dummy.h"
#include "runtime/plan/fit.h"
#include "tests/plan/releases.h"

namespace kt {
namespace {

// Options of the published set-ups; memory of their machines.
struct Published {
  LoadedConfig model;
  RunConfig run;
  Format experts;
  Hardware hardware{.numa_nodes = 2, .memory_gb = 2000, .gpus = 1, .gpu_memory_gb = 48};
  int trunks = 1;

  Deployment deployment() const {
    const Topology topology =
        plan_topology({.tensor_parallel = trunks, .experts_per_node = 2}, 0, std::vector<int>(trunks + 2, 0));
    Deployment d = make_deployment(model, *dummy_checkpoint({}), topology, experts);
    d.gpu_trunk = true;
    d.trunk_threads = 0;
    return d;
  }
  std::vector<RankPlan> ranks() const { return plan_ranks(run, deployment()); }
  bool fits(const RunConfig& changed) const {
    const Deployment d = deployment();
    return find_shortages(changed, plan_ranks(changed, d), d, hardware).empty();
  }
};

Published deepseek() {
  Published p{.model = loaded(deepseek_v32()), .experts = Format::AMXINT4};
  p.run.kt_num_gpu_experts = 1;
  p.run.hot_weights = "model";
  p.run.chunked_prefill_size = 4096;
  p.run.max_running_requests = 32;
  p.run.max_total_tokens = 40000;
  return p;
}

Published kimi(int gpus, int hot, int tokens, int chunk) {
  Published p{.model = loaded(kimi_k2_thinking()), .experts = Format::RAWINT4, .trunks = gpus};
  p.hardware.gpus = gpus;
  p.run.kt_num_gpu_experts = hot;
  p.run.kt_gpu_prefill_token_threshold = "400";
  p.run.max_total_tokens = tokens;
  p.run.chunked_prefill_size = chunk;
  return p;
}

double gb(size_t bytes) { return static_cast<double>(bytes) / 1e9; }

TEST(PlanRanks, DeepseekV32TakesTheVramAndRamOfItsPublishedSetUp) {
  const std::vector<RankPlan> ranks = deepseek().ranks();

  size_t memory = 0;
  for (const RankPlan& r : ranks) memory += r.memory.in_memory();
  EXPECT_NEAR(gb(ranks[0].memory.on_device()), 27.0, 2.7);
  EXPECT_NEAR(gb(memory), 350.0, 35.0);
}

TEST(PlanRanks, AKimiLayerSlotHasThePublishedSize) {
  const std::vector<RankPlan> ranks = kimi(1, 0, 30000, 30000).ranks();

  EXPECT_NEAR(gb(ranks[0].memory.layer_slots) / kLayerSlots, 9.51, 0.01);
  EXPECT_NEAR(gb(kimi(4, 0, 30000, 30000).ranks()[3].memory.layer_slots) / kLayerSlots, 9.51 / 4, 0.01);
}

TEST(PlanRanks, AJobsOwnPlanHasSlotsForBatchesOfExpertsOnly) {
  const Published p = kimi(1, 0, 30000, 30000);
  Deployment d = p.deployment();
  d.running = true;

  const size_t bytes = plan_ranks(p.run, d)[0].memory.layer_slots;

  EXPECT_GT(bytes, 0u);
  EXPECT_LT(gb(bytes), 0.3);
}

TEST(PlanRanks, TheRecommendedKimiSetUpsFitTheirGpus) {
  const struct {
    int gpus, hot, tokens, chunk;
  } table[] = {{1, 0, 30000, 30000}, {2, 8, 65536, 65536}, {4, 30, 80000, 65536}, {8, 80, 100000, 65536}};
  for (const auto& row : table) {
    const Published p = kimi(row.gpus, row.hot, row.tokens, row.chunk);

    EXPECT_TRUE(p.fits(p.run)) << row.gpus << " GPUs: " << describe(p.ranks()[0].memory);
  }
}

TEST(PlanRanks, MoreTokensThanRecommendedAreRefusedWithTheOptionsToLower) {
  const Published p = kimi(1, 0, 32768, 32768);
  const auto fits = [&](const RunConfig& run) { return p.fits(run); };

  ASSERT_FALSE(fits(p.run));
  const Remedies remedies = find_remedies(p.run, p.model.config, fits);

  ASSERT_FALSE(remedies.together);
  std::vector<std::string> names;
  for (const Remedy& r : remedies.options) {
    names.push_back(r.option);
    RunConfig changed = p.run;
    const int value = std::stoi(r.value);
    if (r.option == "max-total-tokens") changed.max_total_tokens = value;
    if (r.option == "chunked-prefill-size") changed.chunked_prefill_size = value;
    if (r.option == "kt-gpu-prefill-token-threshold") changed.kt_gpu_prefill_token_threshold = std::to_string(value);
    EXPECT_TRUE(fits(changed)) << r.option << ' ' << value;
    if (r.option == "max-total-tokens") changed.max_total_tokens = value + 64;
    if (r.option == "chunked-prefill-size") changed.chunked_prefill_size = value + 64;
    EXPECT_TRUE(value == 0 || !fits(changed)) << r.option << ' ' << value << " is not the largest that fits";
  }
  EXPECT_EQ(names,
            (std::vector<std::string>{"chunked-prefill-size", "max-total-tokens", "kt-gpu-prefill-token-threshold"}));
}

TEST(PlanRanks, WhereTwoMachinesCannotHoldAllExpertsEachTheyAreToHoldHalf) {
  Published p = kimi(1, 0, 32768, 4096);
  p.run.kt_gpu_prefill_token_threshold = "0";
  p.run.bank = "replicate";
  p.hardware.nodes = 2;
  p.hardware.memory_gb = 400;  // of 550 GB
  Deployment d = p.deployment();
  d.topology = plan_topology({.tensor_parallel = 1, .experts_per_node = 2, .replicated = true}, 0,
                             std::vector<int>{0, 0, 0, 1, 1});
  const auto fits = [&](const RunConfig& run) {
    return find_shortages(run, plan_ranks(run, d), d, p.hardware).empty();
  };

  ASSERT_FALSE(fits(p.run));
  const Remedies remedies = find_remedies(p.run, p.model.config, fits);

  ASSERT_EQ(remedies.options.size(), 1u);
  EXPECT_EQ(describe(remedies), "set bank to shard (from replicate)");
}

TEST(PlanRanks, AShareOfTheFreeMemoryIsForWeightsAndCacheTogether) {
  for (const bool gpu : {true, false}) {
    Published p = kimi(1, 0, 1 << 30, 4096);
    Deployment d = p.deployment();
    d.gpu_trunk = gpu;
    p.run.mem_fraction_static = 0.9;
    const std::vector<size_t> available = {gpu ? size_t{48'000'000'000} : size_t{700'000'000'000}};

    RunConfig run = p.run;
    run.max_total_tokens = kv_blocks_of_fraction(p.run, d, available) * kBlockTokens;
    size_t taken = 0;
    for (const RankPlan& r : plan_ranks(run, d)) {
      const MemoryPlan& m = r.memory;
      taken += m.trunk_weights + m.hot_experts + m.kv_cache + m.states + (gpu ? 0 : m.experts);
    }
    EXPECT_NEAR(gb(taken), 0.9 * gb(available[0]), 0.01) << gpu;

    p.run.max_total_tokens = 1000;
    EXPECT_EQ(kv_blocks_of_fraction(p.run, d, available), 1000 / kBlockTokens) << "only a cap";
    p.run.mem_fraction_static = 0.1;
    EXPECT_EQ(kv_blocks_of_fraction(p.run, d, available), 0);
  }
}

TEST(PlanRanks, FilesToReadHaveThePublishedSizes) {
  const auto files = [](const LoadedConfig& model, Format experts) {
    const Topology topology = plan_topology({}, 0, std::vector<int>{0});
    const Deployment d = make_deployment(model, *dummy_checkpoint({}), topology, experts);
    return gb(d.trunk_files + d.expert_files);
  };

  EXPECT_NEAR(files(loaded(qwen3_coder_next(true)), Format::FP8), 80.4, 0.8);
  EXPECT_NEAR(files(loaded(qwen3_coder_next(false)), Format::BF16), 159.0, 3.0);
  EXPECT_NEAR(files(loaded(kimi_k2_thinking()), Format::RAWINT4), 594.0, 6.0);
}

TEST(PlanRanks, SharesOfTheTrunkAddUpToTheWhole) {
  const LoadedConfig model = loaded(qwen3_coder_next(true));
  const auto weights = [&](int trunks) {
    const Topology topology = plan_topology({.tensor_parallel = trunks}, 0, std::vector<int>(trunks + 1, 0));
    size_t sum = 0;
    for (const TrunkSize& size : make_deployment(model, *dummy_checkpoint({}), topology, Format::FP8).trunk)
      sum += size.elements;
    return static_cast<double>(sum);
  };
  // What is on every rank: routers, and keys and values beyond the number of their heads.
  const double routers = 48.0 * 513 * 2048;
  EXPECT_NEAR(weights(2), weights(1) + routers, 1.0);
}

TEST(PlanRanks, DeferralIsRefusedWhereTrunkRanksHoldExpertsThemselves) {
  Published p = deepseek();
  p.run.kt_max_deferred_experts_per_token = 2;
  Deployment d = p.deployment();

  EXPECT_NO_THROW(plan_ranks(p.run, d));
  for (const TopologyRequest& request :
       {TopologyRequest{.tensor_parallel = 1, .experts_per_node = 1}, {.tensor_parallel = 2, .experts_per_node = 2}}) {
    const std::vector<int> one_machine(static_cast<size_t>(request.tensor_parallel), 0);
    EXPECT_THROW(check_deferral(p.run, plan_topology(request, 0, one_machine)), Error);
    EXPECT_NO_THROW(check_deferral({}, plan_topology(request, 0, one_machine)));
  }
}

TEST(PlanRanks, OnlyAskedForPurposesTakeMemory) {
  Published p = kimi(1, 0, 30000, 30000);
  p.run.kt_gpu_prefill_token_threshold = "0";
  const std::vector<RankPlan> ranks = p.ranks();

  EXPECT_EQ(ranks[0].memory.layer_slots, 0u);
  EXPECT_EQ(ranks[0].memory.hot_experts, 0u);
  EXPECT_EQ(ranks[0].memory.states, 0u);
  EXPECT_EQ(ranks[0].memory.experts, 0u);
  EXPECT_EQ(ranks[1].memory.on_device(), 0u);
  EXPECT_GT(ranks[1].memory.experts, 0u);
}

}  // namespace
}  // namespace kt
