#include "runtime/plan/plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "runtime/base/error.h"
#include "tests/plan/releases.h"

namespace kt {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

std::vector<int> sizes(const ClusterPlan& plan) {
  std::vector<int> ranks;
  for (const WorldSize& w : plan.worlds) ranks.push_back(w.ranks);
  return ranks;
}

std::string refusal(const RunConfig& run, const LoadedConfig& model, const Hardware& hardware,
                    std::optional<int> world) {
  try {
    plan_cluster(run, model, Format::FP8, hardware, world);
  } catch (const Error& e) {
    EXPECT_EQ(e.exit_code(), kExitUsage);
    return e.what();
  }
  return "accepted";
}

TEST(ClusterPlan, EveryValidWorldSizeCanBePlanned) {
  const LoadedConfig model = loaded(qwen3_coder_next(true));
  const Hardware hardware{.nodes = 2, .numa_nodes = 2, .cores = 8, .memory_gb = 500};
  RunConfig run;
  run.tensor_parallel_size = 2;

  const ClusterPlan standard = plan_cluster(run, model, Format::FP8, hardware, std::nullopt);

  EXPECT_THAT(sizes(standard), ElementsAre(1, 4, 6, 7));
  EXPECT_EQ(standard.deployment.topology.world, 6);
  run.kt_threadpool_count = 2;
  for (const int world : sizes(standard)) {
    const ClusterPlan plan = plan_cluster(run, model, Format::FP8, hardware, world);
    size_t experts = 0;
    for (const RankPlan& r : plan.ranks) experts += r.memory.experts;
    EXPECT_NEAR(static_cast<double>(experts), 77.6e9, 0.8e9) << world;  // each expert is held once
  }
  EXPECT_THAT(refusal(run, model, hardware, 5), HasSubstr("valid: 6"));
}

TEST(ClusterPlan, GoesOnOnlyWithoutExpertRanksWhoseExpertsOthersHold) {
  const LoadedConfig model = loaded(qwen3_coder_next(true));
  const Hardware hardware{.nodes = 2, .numa_nodes = 2, .cores = 8, .memory_gb = 500};
  RunConfig run;
  run.on_lost_expert_rank = "go-on";

  EXPECT_THAT(refusal(run, model, hardware, 5), HasSubstr("without ranks 1, 2 nobody would hold expert 0 of layer 0"));
  run.ep_num_redundant_experts = 511;
  EXPECT_THAT(refusal(run, model, hardware, 5), HasSubstr("nobody would hold expert"));
  run.ep_num_redundant_experts = 512;
  EXPECT_EQ(refusal(run, model, hardware, 5), "accepted");
  run.ep_num_redundant_experts = 0;
  run.bank = "replicate";
  EXPECT_EQ(refusal(run, model, hardware, 5), "accepted");
  run.tensor_parallel_size = 2;
  run.kt_threadpool_count = 1;
  EXPECT_THAT(refusal(run, model, hardware, 2), HasSubstr("every rank with experts is a trunk rank too"));
}

TEST(ClusterPlan, NamesRanksThatHoldNoExperts) {
  const LoadedConfig model = loaded(qwen3_coder_next(true));  // 512 columns: 4 slices of 128
  const Hardware hardware{.nodes = 1, .numa_nodes = 1, .cores = 8, .memory_gb = 500};
  RunConfig run;

  const ClusterPlan enough = plan_cluster(run, model, Format::FP8, hardware, 5);
  const ClusterPlan too_many = plan_cluster(run, model, Format::FP8, hardware, 7);

  EXPECT_THAT(to_text(enough), Not(HasSubstr("no part of any expert")));
  EXPECT_THAT(to_text(too_many), AllOf(HasSubstr("hold no part of any expert"), HasSubstr("4 slices of 128 columns"),
                                       HasSubstr("start 2 ranks fewer")));
  const std::vector<int> idle = to_json(too_many)["ranks_without_experts"];
  EXPECT_EQ(idle.size(), 2u);
  for (const RankPlan& r : too_many.ranks)
    EXPECT_EQ(r.memory.experts == 0, r.rank == 0 || std::count(idle.begin(), idle.end(), r.rank) > 0) << r.rank;
}

TEST(ClusterPlan, NumbersThatNoClusterHasAreRefused) {
  const LoadedConfig model = loaded(qwen3_coder_next(true));
  const Hardware hardware{.nodes = 1'000'000, .numa_nodes = 1, .cores = 8, .memory_gb = 500};
  RunConfig run;
  run.kt_threadpool_count = 4096;
  run.tensor_parallel_size = 2;

  EXPECT_THAT(refusal(run, model, hardware, std::nullopt), HasSubstr("4096000002 ranks"));
  EXPECT_THAT(refusal(run, model, hardware, 2'000'000'000), HasSubstr("2000000000 ranks"));
}

TEST(ClusterPlan, TheLargestOptionsAreCountedInFull) {
  const LoadedConfig model = loaded(qwen3_coder_next(true));
  const Hardware hardware{.nodes = 1, .numa_nodes = 1, .cores = 8, .memory_gb = 500};
  RunConfig run;
  run.max_total_tokens = 2'147'483'647;
  run.chunked_prefill_size = 1 << 20;
  run.trunk_threads = run.kt_cpuinfer = 2'147'483'647;
  run.max_running_requests = 192;

  const ClusterPlan plan = plan_cluster(run, model, Format::FP8, hardware, std::nullopt);

  EXPECT_GT(plan.ranks[0].memory.kv_cache, 50'000'000'000'000u) << "12 layers of 2 heads of 256: 24 KiB a token";
  EXPECT_FALSE(plan.shortages.empty());
  EXPECT_FALSE(plan.remedies.options.empty());
  for (const Remedy& r : plan.remedies.options) EXPECT_THAT(r.value, Not(HasSubstr("-"))) << r.option;
}

TEST(ClusterPlan, TrunkRanksNeedGpus) {
  const LoadedConfig model = loaded(qwen3_coder_next(true));
  RunConfig run;
  run.device = "cuda";
  run.tensor_parallel_size = 4;
  Hardware hardware{.memory_gb = 500};

  EXPECT_THAT(refusal(run, model, hardware, std::nullopt), HasSubstr("has no GPUs"));
  hardware.gpus = 2, hardware.gpu_memory_gb = 48;
  EXPECT_THAT(refusal(run, model, hardware, std::nullopt), HasSubstr("tensor-parallel-size 4: 1 machine with 2 GPUs"));
  hardware.nodes = 2;
  const ClusterPlan plan = plan_cluster(run, model, Format::FP8, hardware, std::nullopt);
  EXPECT_EQ(plan.ranks[1].node, 0);
  EXPECT_EQ(plan.ranks[2].node, 1);
  hardware.gpus = 1;
  run.tensor_parallel_size = 2;
  run.kt_threadpool_count = 2;
  EXPECT_THAT(refusal(run, model, hardware, 4), HasSubstr("machine 0 would have more trunk ranks than its 1 GPU"));
}

TEST(ClusterPlan, AGpuTrunkTakesVramAndACpuTrunkMemory) {
  const LoadedConfig model = loaded(qwen3_coder_next(true));
  const Hardware hardware{.memory_gb = 500, .gpus = 1, .gpu_memory_gb = 1};
  RunConfig run;

  EXPECT_TRUE(plan_cluster(run, model, Format::FP8, hardware, std::nullopt).shortages.empty());
  for (const char* device : {"cuda", "auto"}) {
    run.device = device;
    const ClusterPlan plan = plan_cluster(run, model, Format::FP8, hardware, std::nullopt);
    ASSERT_EQ(plan.shortages.size(), 1u) << device;
    EXPECT_EQ(plan.shortages[0].where, "the GPU of rank 0");
  }
  run.tensor_parallel_size = 2;
  EXPECT_TRUE(plan_cluster(run, model, Format::FP8, hardware, std::nullopt).shortages.empty())
      << "too few GPUs: the CPU";
}

// Ranks bind their memory to the NUMA node that they run on.
TEST(ClusterPlan, ABankMustFitItsNumaNode) {
  const LoadedConfig model = loaded(qwen3_coder_next(true));
  const Hardware hardware{.numa_nodes = 2, .memory_gb = 120};
  RunConfig run;

  EXPECT_TRUE(plan_cluster(run, model, Format::FP8, hardware, std::nullopt).shortages.empty());
  run.kt_threadpool_count = 1;
  const ClusterPlan plan = plan_cluster(run, model, Format::FP8, hardware, std::nullopt);
  ASSERT_EQ(plan.shortages.size(), 1u);
  EXPECT_EQ(plan.shortages[0].where, "NUMA node 0 of machine 0");
  EXPECT_EQ(plan.shortages[0].available, 60'000'000'000u);
}

TEST(ClusterPlan, SaysHowManyMachinesAreNeededWhenNoOptionHelps) {
  const LoadedConfig model = loaded(qwen3_coder_next(true));
  const RunConfig run;
  Hardware hardware{.memory_gb = 30};

  const ClusterPlan plan = plan_cluster(run, model, Format::FP8, hardware, std::nullopt);

  EXPECT_TRUE(plan.remedies.options.empty());
  ASSERT_GT(plan.nodes_needed, 1);
  hardware.nodes = plan.nodes_needed;
  EXPECT_TRUE(plan_cluster(run, model, Format::FP8, hardware, std::nullopt).shortages.empty());
  hardware.nodes -= 1;
  EXPECT_FALSE(plan_cluster(run, model, Format::FP8, hardware, std::nullopt).shortages.empty());
}

TEST(ClusterPlan, NamesOptionsTogetherWhenNoneAloneIsEnough) {
  const LoadedConfig model = loaded(qwen3_coder_next(true));
  RunConfig run;
  run.device = "cuda";
  run.kt_num_gpu_experts = 100;        // 15 GB
  run.max_total_tokens = 1000 * 1000;  // 24 GB
  run.chunked_prefill_size = 16384;    // 3 GB
  const Hardware hardware{.memory_gb = 200, .gpus = 1, .gpu_memory_gb = 8};

  const ClusterPlan plan = plan_cluster(run, model, Format::FP8, hardware, std::nullopt);

  ASSERT_TRUE(plan.remedies.together);
  for (const Remedy& r : plan.remedies.options) {
    const int value = std::stoi(r.value);
    if (r.option == "kt-num-gpu-experts") run.kt_num_gpu_experts = value;
    if (r.option == "max-total-tokens") run.max_total_tokens = value;
    if (r.option == "chunked-prefill-size") run.chunked_prefill_size = value;
    if (r.option == "max-running-requests") run.max_running_requests = value;
  }
  EXPECT_TRUE(plan_cluster(run, model, Format::FP8, hardware, std::nullopt).shortages.empty());
  EXPECT_THAT(to_text(plan), HasSubstr("\nand lower"));
}

TEST(ClusterPlan, TextAndJsonTellTheSame) {
  const LoadedConfig model = loaded(kimi_k2_thinking());
  RunConfig run;
  run.device = "cuda";
  run.kt_gpu_prefill_token_threshold = "400";
  const Hardware hardware{.name = "box", .memory_gb = 1000, .gpus = 1, .gpu_memory_gb = 48};

  const ClusterPlan plan = plan_cluster(run, model, Format::RAWINT4, hardware, std::nullopt);
  const nlohmann::ordered_json json = to_json(plan);

  EXPECT_EQ(json["fits"], plan.shortages.empty());
  EXPECT_EQ(json["ranks"].size(), plan.ranks.size());
  size_t sum = 0;
  for (const auto& [name, bytes] : json["ranks"][0]["bytes"].items()) sum += bytes.get<size_t>();
  EXPECT_EQ(sum, plan.ranks[0].memory.total());
  EXPECT_NEAR(json["layer_slot_bytes"].get<double>(), 9.51e9, 1e7);
  EXPECT_THAT(to_text(plan), HasSubstr("2 slots of 9.51 GB"));
  EXPECT_THAT(to_text(plan), HasSubstr("files to read: 594.2 GB"));
}

}  // namespace
}  // namespace kt
