#include "runtime/plan/calibration.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/plan/releases.h"
#include "tests/refusal_of.h"
#include "tests/temp_folder.h"

namespace kt {
namespace {

using Json = nlohmann::ordered_json;

const Hardware kBox{.name = "box",
                    .nodes = 1,
                    .numa_nodes = 1,
                    .cores = 2,
                    .memory_gb = 100,
                    .memory_bandwidth_gbs = 40,
                    .cpu_tflops = 1};

std::vector<Chances> alike(const ModelConfig& m) { return {uniform_chances(m.moe)}; }

Json decode_line() {
  return {{"phase", "decode"}, {"context", 512},    {"batch", 4},          {"ms_per_token", 12.5}, {"ranks_total", 3},
          {"nodes", 1},        {"layout", "slice"}, {"transport", "auto"}, {"layers", 2},          {"experts", 32}};
}

TEST(Calibration, ReadsTheLinesOfBothBenchmarks) {
  const std::optional<MeasuredStep> step = measured_step(decode_line(), "f:1");
  ASSERT_TRUE(step);
  EXPECT_FALSE(step->prefill);
  EXPECT_EQ(step->ms, 12.5);
  EXPECT_EQ(step->variant, (Variant{.nodes = 1, .world = 3, .layout = "slice", .layers = 2, .experts = 32}));

  Json placed = decode_line();
  placed["nodes"] = 2, placed["node_of"] = {0, 1, 0};
  EXPECT_EQ(measured_step(placed, "f:1")->variant.node_of, (std::vector<int>{0, 1, 0}));

  Json scale = decode_line();
  scale.erase("ranks_total"), scale.erase("ms_per_token"), scale.erase("context");
  scale["phase"] = "prefill", scale["prompt"] = 100, scale["ranks"] = 2, scale["ms_median"] = 80;
  EXPECT_EQ(measured_step(scale, "f:1")->variant.world, 2);
  EXPECT_TRUE(measured_step(scale, "f:1")->prefill);

  EXPECT_FALSE(measured_step({{"machine", "a box"}}, "f:1"));
}

TEST(Calibration, SaysWhatALineLacks) {
  for (const char* member : {"batch", "nodes", "layout", "layers", "experts"}) {
    Json line = decode_line();
    line.erase(member);
    EXPECT_EQ(refusal_of([&] { measured_step(line, "f:7"); }, kExitUsage),
              fmt::format("f:7: expected a line of bench step or bench scale, with {}", member));
  }
  Json line = decode_line();
  line["batch"] = "four";
  EXPECT_EQ(refusal_of([&] { measured_step(line, "f:7"); }, kExitUsage),
            "f:7: batch: expected a number above 0, found \"four\"");
  for (const Json& wrong : {Json{0, 0}, Json{0, 0, 1}, Json("0"), Json{0, 0, "0"}}) {
    line = decode_line();
    line["node_of"] = wrong;
    EXPECT_EQ(refusal_of([&] { measured_step(line, "f:7"); }, kExitUsage),
              "f:7: node_of: expected a machine from 0 to 0 for each of 3 ranks, found " + wrong.dump());
  }
  line = decode_line();
  line["phase"] = "load";
  EXPECT_EQ(refusal_of([&] { measured_step(line, "f:7"); }, kExitUsage),
            "f:7: phase: expected prefill or decode, found 'load'");
}

TEST(Calibration, SaysWhichLineOfAFileIsWrong) {
  const TempFolder folder;
  const auto file = folder.path() / "lines.jsonl";
  const auto refusal = [&](const std::string& text) {
    std::ofstream(file) << text;
    return refusal_of([&] { read_measured(file); }, kExitUsage);
  };
  EXPECT_EQ(refusal("{\"machine\": 1}\n{oops\n"), file.string() + ":2: this line is not JSON");
  EXPECT_EQ(refusal("{\"machine\": 1}\n"),
            file.string() + ": expected lines of ktmpi bench step or bench scale, found none");
  EXPECT_EQ(refusal_of([&] { read_measured(folder.path() / "none"); }, kExitUsage),
            (folder.path() / "none").string() + ": this file cannot be read");
}

// Times that the model itself made with factors that the fit does not know.
TEST(Calibration, FindsTheFactorsOfAMachineThatIsAsTheModelSays) {
  const LoadedConfig model = loaded(qwen3_coder_next(true));
  const CostFactors truth{.memory = 0.55, .compute = 0.3, .apart = 0.6, .layer_us = 60, .message_us = 25};
  Twins twins({}, model, Format::FP8, kBox, alike);
  std::vector<MeasuredStep> few, more;
  for (const int ranks : {1, 2, 3, 4, 6})
    for (const bool prefill : {false, true})
      for (const int batch : {1, 4, 16}) {
        MeasuredStep step{.where = "",
                          .prefill = prefill,
                          .tokens = 512,
                          .batch = batch,
                          .variant = {.nodes = 1, .world = ranks, .layout = "slice", .layers = 4, .experts = 32}};
        const Twin& twin = twins.of(step.variant);
        step.ms = 1e3 * time_of(work_of(step, twin), twin, truth).total;
        (ranks <= 2 ? few : more).push_back(step);
      }

  const CostFactors found = calibrate(few, twins);

  EXPECT_NEAR(found.memory, truth.memory, 0.02 * truth.memory);
  EXPECT_NEAR(found.compute, truth.compute, 0.02 * truth.compute);
  EXPECT_NEAR(found.apart, truth.apart, 0.1 * truth.apart);
  EXPECT_LT(errors_of(predict(more, twins, found)).max, 0.03);
}

TEST(Calibration, ErrorsAreThoseOfThePoints) {
  const auto point = [](double measured, double predicted) {
    MeasuredStep step;
    step.ms = measured;
    return Prediction{step, predicted};
  };
  const std::vector<Prediction> points = {point(10, 11), point(10, 8), point(10, 10.5)};
  EXPECT_NEAR(errors_of(points).max, 0.2, 1e-12);
  EXPECT_NEAR(errors_of(points).median, 0.1, 1e-12);
  EXPECT_EQ(errors_of({}).points, 0);
}

}  // namespace
}  // namespace kt
