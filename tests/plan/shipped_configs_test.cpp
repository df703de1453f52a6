// Every file of configs/ that is for a machine with GPUs fits, with its own values, into the machine that it names;
// into its GPUs within a tenth, for other systems measure what they take otherwise.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <regex>
#include <set>
#include <sstream>

#include "runtime/arch/load_config.h"
#include "runtime/plan/hardware.h"
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
    EXPECT_TRUE(plan.deployment.gpu_trunk);
  }
}

// What the head of a file in configs/cpu or configs/gpu says of it: "mpirun -np N", "configs/hardware/NAME.yaml" and
// "configs/models/NAME".
struct MadeFor {
  std::filesystem::path hardware, sizes;
  int ranks = 0;

  explicit MadeFor(const std::filesystem::path& file) {
    std::ifstream stream(file);
    std::stringstream text;
    text << stream.rdbuf();
    const std::string all = text.str();
    const auto find = [&](const char* pattern) {
      std::smatch found;
      return std::regex_search(all, found, std::regex(pattern)) ? found[1].str() : std::string();
    };
    hardware = KTMPI_SOURCE_DIR "/" + find(R"((configs/hardware/[\w.-]+\.yaml))");
    sizes = KTMPI_SOURCE_DIR "/" + find(R"((configs/models/[\w.-]*\w))");
    ranks = std::stoi("0" + find(R"(mpirun -np (\d+) )"));
    EXPECT_NE(all.find(std::filesystem::relative(file, KTMPI_SOURCE_DIR).string()), all.npos) << "its own name";
  }
};

TEST(ShippedConfigs, AreThereForEveryModelOnOneMachineAndOnFourAndFitThem) {
  constexpr const char* kModels[] = {"qwen3.5", "qwen3-coder-next", "qwen3-next-80b", "deepseek-v3.2",
                                     "kimi-k2-thinking"};
  for (const std::string device : {"cpu", "gpu"}) {
    for (const std::string model : kModels) {
      for (const int machines : {1, 4}) {
        const std::string name = device + "/" + model + (machines > 1 ? "-4-nodes" : "") + ".yaml";
        SCOPED_TRACE(name);
        const MadeFor made_for(KTMPI_SOURCE_DIR "/configs/" + name);
        const std::vector<std::string> arguments = {"--config", KTMPI_SOURCE_DIR "/configs/" + name};
        const RunConfig run = parse_run_config(arguments, Intent::plan);
        const Hardware hardware = read_hardware(made_for.hardware);
        const LoadedConfig sizes = load_model_config(made_for.sizes);
        const Format experts = run.kt_method == "AMXINT4"   ? Format::AMXINT4
                               : run.kt_method == "RAWINT4" ? Format::RAWINT4
                               : run.kt_method == "FP8"     ? Format::FP8
                                                            : Format::BF16;

        const ClusterPlan plan = plan_cluster(run, sizes, experts, hardware, made_for.ranks);

        EXPECT_EQ(hardware.nodes, machines);
        EXPECT_TRUE(plan.shortages.empty()) << to_text(plan);
        EXPECT_EQ(static_cast<int>(plan.ranks.size()), made_for.ranks);
        EXPECT_EQ(plan.deployment.gpu_trunk, device == "gpu");
        EXPECT_TRUE(run.warnings.empty()) << run.warnings.front();
      }
    }
  }
}

TEST(ShippedConfigs, AreAllThereIsForGpus) {
  std::set<std::string> known = {"qwen35"};  // a family; its sizes differ
  for (const Shipped& s : shipped()) known.insert(s.file);
  for (const auto& file : std::filesystem::directory_iterator(KTMPI_SOURCE_DIR "/configs")) {
    if (file.path().extension() != ".yaml") continue;
    const std::vector<std::string> arguments = {"--config", file.path().string()};
    if (parse_run_config(arguments, Intent::plan).device != "auto") continue;
    EXPECT_TRUE(known.contains(file.path().stem().string())) << file.path();
  }
}

}  // namespace
}  // namespace kt
