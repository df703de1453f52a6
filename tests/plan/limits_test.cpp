#include "runtime/plan/limits.h"

#include <gtest/gtest.h>

#include "runtime/plan/plan.h"
#include "tests/plan/releases.h"

namespace kt {
namespace {

Hardware example(const std::string& name) {
  return read_hardware(KTMPI_SOURCE_DIR "/configs/hardware/" + name + ".yaml");
}

RunConfig gpu_run(int trunks, int hot, int threshold, int tokens, int chunk) {
  RunConfig run;
  run.device = "cuda";
  run.tensor_parallel_size = trunks;
  run.kt_num_gpu_experts = hot;
  run.kt_gpu_prefill_token_threshold = std::to_string(threshold);
  run.max_total_tokens = tokens;
  run.chunked_prefill_size = chunk;
  return run;
}

double prefill(const RateLimits& limits, int prompt) {
  for (const RateLimit& r : limits.prefill)
    if (r.tokens == prompt) return r.tokens_per_s;
  return 0;
}
double decode(const RateLimits& limits, int context) {
  for (const RateLimit& r : limits.decode)
    if (r.tokens == context && r.batch == 1) return r.tokens_per_s;
  return 0;
}

// KTransformers' own tables, measured on the machines of configs/hardware.
TEST(RateLimits, AreAboveEveryPublishedRate) {
  const LoadedConfig kimi = loaded(kimi_k2_thinking()), coder = loaded(qwen3_coder_next(true));
  const struct {
    int gpus, hot, tokens, at_2k, at_8k, at_32k;
  } table[] = {{2, 8, 65536, 85, 294, 529}, {4, 30, 80000, 118, 415, 818}, {8, 80, 100000, 130, 435, 1055}};
  for (const auto& row : table) {
    const RateLimits limits = plan_cluster(gpu_run(row.gpus, row.hot, 400, row.tokens, 65536), kimi, Format::RAWINT4,
                                           example("rtx4090-48gb-8488c"), std::nullopt)
                                  .limits;

    EXPECT_GT(prefill(limits, 2048), row.at_2k);
    EXPECT_GT(prefill(limits, 8192), row.at_8k);
    EXPECT_GT(prefill(limits, 32768), row.at_32k);
  }

  const RateLimits limits =
      plan_cluster(gpu_run(1, 100, 2048, 256000, 16384), coder, Format::FP8, example("rtx5090-epyc9355"), std::nullopt)
          .limits;
  EXPECT_GT(prefill(limits, 64), 362);
  EXPECT_GT(prefill(limits, 2048), 1746);
  EXPECT_GT(prefill(limits, 8192), 2407);
  EXPECT_GT(prefill(limits, 32768), 6233);
  EXPECT_GT(decode(limits, 64), 75.9);
  EXPECT_GT(decode(limits, 32768), 51.7);
}

TEST(RateLimits, LayerwisePrefillOfOneChunkTakesAsLongAsTheLinkNeedsForTheExperts) {
  const LoadedConfig kimi = loaded(kimi_k2_thinking());
  const ClusterPlan plan = plan_cluster(gpu_run(1, 0, 400, 30000, 30000), kimi, Format::RAWINT4,
                                        example("rtx4090-48gb-8488c"), std::nullopt);

  // 570.8 GB at 25 GB/s, less the experts that none of 8192 rows chose.
  EXPECT_NEAR(8192 / prefill(plan.limits, 8192), 570.8 / 25, 0.1);
  EXPECT_EQ(plan.limits.prefill.back().bound, "link");
}

TEST(RateLimits, DecodeOfOneSequenceReadsTopKExpertsOfEachLayer) {
  const LoadedConfig kimi = loaded(kimi_k2_thinking());
  RunConfig run = gpu_run(1, 0, 0, 30000, 4096);
  Hardware hardware = example("rtx4090-48gb-8488c");
  hardware.gpu_bandwidth_gbs = hardware.gpu_tflops = 1e6;  // as if the trunk took no time

  const RateLimits limits = plan_cluster(run, kimi, Format::RAWINT4, hardware, std::nullopt).limits;

  const double bytes = 60.0 * 8 * 3 * 7168 * 2048 * 0.5625;  // 4 bits, and 16 for the scale of 32
  EXPECT_NEAR(decode(limits, 64), 522e9 / bytes, 0.1);
}

TEST(RateLimits, FollowTheHardware) {
  const LoadedConfig model = loaded(qwen3_coder_next(true));
  Hardware hardware{.nodes = 1, .cores = 8, .memory_gb = 200, .memory_bandwidth_gbs = 100, .cpu_tflops = 1};
  RunConfig run;

  const RateLimits slow = plan_cluster(run, model, Format::FP8, hardware, std::nullopt).limits;
  hardware.memory_bandwidth_gbs *= 2, hardware.cpu_tflops *= 2;
  const RateLimits fast = plan_cluster(run, model, Format::FP8, hardware, std::nullopt).limits;

  for (size_t i = 0; i < slow.prefill.size(); ++i)
    EXPECT_NEAR(fast.prefill[i].tokens_per_s, 2 * slow.prefill[i].tokens_per_s, 1e-6 * fast.prefill[i].tokens_per_s);
  for (size_t i = 0; i < slow.decode.size(); ++i)
    EXPECT_NEAR(fast.decode[i].tokens_per_s, 2 * slow.decode[i].tokens_per_s, 1e-6 * fast.decode[i].tokens_per_s);
  ASSERT_FALSE(slow.prefill.empty());
}

// Both memories at once are faster than either.
TEST(RateLimits, ADecodeStepIsFastestWithExpertsOnBothSides) {
  const LoadedConfig model = loaded(qwen3_coder_next(true));
  const auto rate = [&](int hot) {
    return decode(
        plan_cluster(gpu_run(1, hot, 0, 65536, 4096), model, Format::FP8, example("rtx5090-epyc9355"), std::nullopt)
            .limits,
        64);
  };

  EXPECT_GT(rate(300), rate(0));
  EXPECT_GT(rate(300), rate(512));
}

TEST(RateLimits, SayWhichKeysOfTheHardwareAreMissing) {
  const LoadedConfig model = loaded(qwen3_coder_next(true));

  const RateLimits limits =
      plan_cluster({}, model, Format::FP8, {.nodes = 2, .memory_gb = 200, .cpu_tflops = 1}, std::nullopt).limits;

  EXPECT_EQ(limits.missing, "memory-bandwidth-gbs, network-gbs");
  EXPECT_TRUE(limits.prefill.empty());
}

}  // namespace
}  // namespace kt
