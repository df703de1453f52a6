// Every file of configs/ that is for a machine with GPUs fits, with its own values, into the machine that it names;
// into its GPUs within a tenth, for other systems measure what they take otherwise.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <set>

#include "runtime/plan/plan.h"
#include "tests/plan/releases.h"

namespace kt {
namespace {

struct Shipped {
  std::string file;
  nlohmann::json model;
  Format experts;
  int gpus, gpu_gb, memory_gb;
  int trunks, expert_ranks;  // as its comment starts it
};

double gb(size_t bytes) { return static_cast<double>(bytes) / 1e9; }

std::vector<Shipped> shipped() {
  std::vector<Shipped> all = {
      {"deepseek-v3.2", deepseek_v32(), Format::AMXINT4, 1, 48, 350, 1, 2},
      {"kimi-k2-thinking", kimi_k2_thinking(), Format::RAWINT4, 2, 48, 650, 2, 2},
      {"qwen3-coder-next-bf16", qwen3_coder_next(false), Format::BF16, 1, 32, 180, 1, 2},
      {"qwen3-coder-next-fp8", qwen3_coder_next(true), Format::FP8, 1, 32, 100, 1, 2},
      {"qwen3-next-80b", qwen3_coder_next(true), Format::FP8, 4, 24, 256, 4, 2},
  };
  for (int gpus : {1, 2, 4, 8})
    all.push_back({"kimi-k2-thinking-" + std::to_string(gpus) + "gpu", kimi_k2_thinking(), Format::RAWINT4, gpus, 48,
                   650, gpus, 2});
  return all;
}

TEST(ShippedConfigs, FitTheMachinesThatTheyName) {
  for (const Shipped& s : shipped()) {
    SCOPED_TRACE(s.file);
    const std::vector<std::string> arguments = {"--config", KTMPI_SOURCE_DIR "/configs/" + s.file + ".yaml"};
    const RunConfig run = parse_run_config(arguments, Intent::plan);
    const Hardware hardware{.numa_nodes = 2,
                            .memory_gb = static_cast<double>(s.memory_gb),
                            .gpus = s.gpus,
                            .gpu_memory_gb = static_cast<double>(s.gpu_gb)};

    const ClusterPlan plan = plan_cluster(run, loaded(s.model), s.experts, hardware, std::nullopt);

    for (const RankPlan& r : plan.ranks) EXPECT_LT(gb(r.memory.on_device()), 1.1 * s.gpu_gb) << to_text(plan);
    for (const Shortage& shortage : plan.shortages)
      EXPECT_THAT(shortage.where, testing::StartsWith("the GPU of rank")) << to_text(plan);
    EXPECT_EQ(plan.ranks.size(), static_cast<size_t>(s.trunks + s.expert_ranks));
  }
}

TEST(ShippedConfigs, AreAllThereIsForGpus) {
  std::set<std::string> known = {"qwen35"};  // a family; its sizes differ
  for (const Shipped& s : shipped()) known.insert(s.file);
  for (const auto& file : std::filesystem::directory_iterator(KTMPI_SOURCE_DIR "/configs")) {
    if (file.path().extension() != ".yaml") continue;
    const std::vector<std::string> arguments = {"--config", file.path().string()};
    if (parse_run_config(arguments, Intent::plan).device != "cuda") continue;
    EXPECT_TRUE(known.contains(file.path().stem().string())) << file.path();
  }
}

}  // namespace
}  // namespace kt
