#include "runtime/plan/predict.h"

#include <gtest/gtest.h>

#include "runtime/plan/twins.h"
#include "tests/plan/releases.h"
#include "tests/refusal_of.h"

namespace kt {
namespace {

Hardware cluster() {
  return {.name = "a cluster",
          .nodes = 1,
          .numa_nodes = 2,
          .cores = 32,
          .memory_gb = 1000,
          .memory_bandwidth_gbs = 400,
          .cpu_tflops = 50,
          .network_gbs = 12,
          .network_latency_us = 3};
}

std::vector<Chances> alike(const ModelConfig& m) { return {uniform_chances(m.moe)}; }

TEST(SharedSeconds, RanksWithCoresOfTheirOwnTakeAsLongAsTheSlowest) {
  EXPECT_DOUBLE_EQ(shared_seconds({1, 3, 2}, {0.25, 0.25, 0.5}), 3);
  EXPECT_DOUBLE_EQ(shared_seconds({}, {}), 0);
}

// Two cores, three ranks of one thread each.
TEST(SharedSeconds, ShortJobsWaitForACoreAndLongOnesTakeTurns) {
  EXPECT_DOUBLE_EQ(shared_seconds({1e-4, 1e-4, 1e-4}, {0.5, 0.5, 0.5}), 2e-4);
  EXPECT_NEAR(shared_seconds({1, 1, 1}, {0.5, 0.5, 0.5}), 1.5, 0.01);
  EXPECT_DOUBLE_EQ(shared_seconds({5e-4, 1e-4, 1e-4}, {0.5, 0.5, 0.5}), 5e-4);
}

TEST(Predict, MoreMachinesNeverGiveAMachineMoreOfTheExperts) {
  const LoadedConfig model = loaded(deepseek_v32());
  for (const char* layout : {"hybrid", "expert"})
    for (const int batch : {1, 32}) {
      Twins twins({}, model, Format::FP8, cluster(), alike);
      double bytes = 1e18, seconds = 1e18;
      for (int nodes = 1; nodes <= 64; nodes *= 2) {
        const Twin& twin = twins.of({.nodes = nodes, .world = {}, .layout = layout});
        const StepTime t = time_of(decode_work(twin, 2048, batch), twin, {});
        EXPECT_LE(t.expert_bytes, bytes * (1 + 1e-9)) << layout << ' ' << nodes;
        EXPECT_LE(t.experts, seconds * (1 + 1e-9)) << layout << ' ' << nodes;
        EXPECT_GE(t.total, t.trunk + t.experts) << layout << ' ' << nodes;
        bytes = t.expert_bytes, seconds = t.experts;
      }
    }
}

TEST(Predict, OneRankOfAllSendsNothing) {
  const LoadedConfig model = loaded(qwen3_coder_next(true));
  Twins twins({}, model, Format::FP8, cluster(), alike);
  const Twin& twin = twins.of({.nodes = 1, .world = 1, .layout = "hybrid"});

  const StepTime t = time_of(decode_work(twin, 512, 4), twin, {.message_us = 1000});

  EXPECT_EQ(t.out_bytes + t.back_bytes + t.dispatch + t.messages, 0);
  EXPECT_DOUBLE_EQ(t.total, t.trunk + t.shared + t.experts);
}

// 48 layers, rows of 2048 values, 10 experts a row; every rank has a part of every expert.
TEST(Predict, SlicesSendEveryRowToEveryRank) {
  const LoadedConfig model = loaded(qwen3_coder_next(true));
  Hardware one = cluster();
  one.numa_nodes = 1;
  Twins twins({}, model, Format::FP8, one, alike);
  const Twin& twin = twins.of({.nodes = 1, .world = 3, .layout = "slice"});

  const StepTime t = time_of(decode_work(twin, 512, 4), twin, {});

  EXPECT_DOUBLE_EQ(t.out_bytes, 48.0 * 4 * (2048 * 2 + 10 * 8));  // one inbox for both
  EXPECT_DOUBLE_EQ(t.back_bytes, 48.0 * 4 * 2 * 2048 * 8);
}

TEST(Predict, RanksThatShareCoresGainNothingByBeingMore) {
  const LoadedConfig model = loaded(qwen3_coder_next(true));
  Hardware small = cluster();
  small.numa_nodes = 1, small.cores = 2;
  Twins twins({}, model, Format::FP8, small, alike);
  const auto experts = [&](int world) {
    const Twin& twin = twins.of({.nodes = 1, .world = world, .layout = "slice"});
    return time_of(prefill_work(twin, 2048, 4), twin, {}).experts;
  };
  EXPECT_GE(experts(5) * 1.0001, experts(3));
  EXPECT_GE(experts(3) * 1.0001, experts(2));
}

// The trunk rank on the first machine, an expert rank with all cores on each other one.
TEST(Predict, VirtualMachinesOfAHostShareItsCores) {
  const LoadedConfig model = loaded(qwen3_coder_next(true));
  const auto experts = [&](int machines, int per_host) {
    Hardware h = cluster();
    h.numa_nodes = 1, h.nodes_per_host = per_host;
    Twins twins({}, model, Format::FP8, h, alike);
    Variant v{.nodes = 1 + machines, .world = 1 + machines, .layout = "slice"};
    for (int r = 0; r <= machines; ++r) v.node_of.push_back(r);
    const Twin& twin = twins.of(v);
    return time_of(prefill_work(twin, 2048, 1), twin, {}).experts;
  };
  EXPECT_NEAR(experts(2, 1), experts(1, 1) / 2, 0.01 * experts(1, 1));
  EXPECT_GE(experts(2, 3), experts(1, 1));
  EXPECT_NEAR(experts(4, 2), experts(1, 1) / 2, 0.01 * experts(1, 1));
}

TEST(Predict, AnUnevenUseMakesTheSlowestRankSlower) {
  const LoadedConfig model = loaded(deepseek_v32());
  const auto experts = [&](double skew) {
    Twins twins({}, model, Format::FP8, cluster(),
                [=](const ModelConfig& m) { return std::vector<Chances>{skewed_chances(m.moe, skew)}; });
    const Twin& twin = twins.of({.nodes = 4, .world = {}, .layout = "expert"});
    return time_of(prefill_work(twin, 2048, 1), twin, {});
  };
  EXPECT_GT(experts(1.5).imbalance, experts(0).imbalance);
  EXPECT_GT(experts(1.5).experts, experts(0).experts);
}

TEST(Predict, HotExpertsMoveToTheTrunk) {
  const LoadedConfig model = loaded(qwen3_coder_next(true));
  const auto time = [&](int hot) {
    RunConfig run;
    run.kt_num_gpu_experts = hot;
    Twins twins(run, model, Format::FP8, cluster(), alike);
    const Twin& twin = twins.of({.nodes = 2, .world = 2, .layout = "hybrid", .node_of = {0, 1}});
    return time_of(decode_work(twin, 512, 1), twin, {});
  };
  EXPECT_LT(time(256).experts, 0.6 * time(0).experts);
  EXPECT_GT(time(256).shared, time(0).shared);
  EXPECT_EQ(time(512).experts, 0);
}

TEST(Predict, ALongPromptTakesOnePassForEachChunk) {
  const LoadedConfig model = loaded(qwen3_coder_next(true));
  RunConfig run;
  run.chunked_prefill_size = 1024;
  Twins twins(run, model, Format::FP8, cluster(), alike);
  const Twin& twin = twins.of({.nodes = 1, .world = {}, .layout = "hybrid"});

  const std::vector<PassWork> passes = prefill_work(twin, 2500, 1);

  ASSERT_EQ(passes.size(), 3u);
  EXPECT_EQ(passes[2].pass.rows, 452);
  EXPECT_EQ(passes[2].pass.keys, 2048 + 226);
  EXPECT_EQ(passes[1].pass.logit_rows, 0);
  EXPECT_EQ(passes[2].pass.logit_rows, 1);
}

TEST(Predict, RatesThatAreNotKnownAreNamed) {
  const LoadedConfig model = loaded(qwen3_coder_next(true));
  Twins twins({}, model, Format::FP8, {.name = "a box", .memory_gb = 100, .cpu_tflops = 1}, alike);
  EXPECT_EQ(refusal_of([&] { twins.of({.nodes = 2, .world = {}, .layout = "hybrid"}); }, kExitUsage),
            "a box: not known: memory-bandwidth-gbs, network-gbs\n"
            "name hardware that has them, such as those of configs/hardware");
}

}  // namespace
}  // namespace kt
