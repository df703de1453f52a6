// Weights on their way from expert ranks: what arrives has the bytes of what would have been loaded, on every device.

#include "runtime/model/experts/expert_fetch.h"

#include <gtest/gtest.h>

#include <cstring>
#include <map>

#include "tests/model/expert_world.h"

namespace kt {
namespace {

const Arch& arch() { return find_arch(nlohmann::json{{"model_type", "qwen3_moe"}}); }

TEST(ExpertFetch, BringsTheBytesThatLoadingGives) {
  const ModelConfig config = routed_model();
  const TestDevice on = test_devices().front();
  ExpertWorld world(config, arch(), on);
  Machine m(config, "qwen3_moe", on, {.layerwise = true},
            {world.transports[0].get(), world.topology(0), world.dispatch.get()});
  const PackedShape shape = expert_shape(config, Format::BF16, config.moe.inter);
  FetchRoom room;
  for (const std::vector<int32_t>& wanted : {std::vector<int32_t>{}, {3}, {0, 2, 7}}) {
    std::map<int32_t, std::vector<std::byte>> here;
    ExpertFetch fetch(m.trunk, m.transport, world.dispatch.get(), room, 1, wanted);
    while (!fetch
                .next([&](int32_t expert) {
                  std::byte* at = here.emplace(expert, shape.bytes()).first->second.data();
                  return ExpertBytes{at, at + shape.gate_up.bytes()};
                })
                .empty()) {
    }

    ASSERT_EQ(here.size(), wanted.size());
    for (int32_t expert : wanted) {
      std::vector<std::byte> loaded(shape.bytes());
      load_expert({.checkpoint = m.checkpoint.get(), .arch = &m.arch}, config, 1, expert, {0, config.moe.inter},
                  loaded.data(), m.pool);
      EXPECT_EQ(here.at(expert), loaded) << expert;
    }
  }
  world.dismiss_lanes();
}

TEST(ExpertFetch, StreamedExpertsGiveTheBitsOfExpertRanks) {
  const ModelConfig config = routed_model();
  std::vector<float> expected;
  for (const TestDevice& on : test_devices()) {
    ExpertWorld world(config, arch(), on);
    Machine m(config, "qwen3_moe", on, {.layerwise = true},
              {world.transports[0].get(), world.topology(0), world.dispatch.get()});
    StepPlan streamed = m.plan({0, 70});
    streamed.orders.layerwise = true;
    const std::vector<float> sent = m.logits({{0, 70}});
    const float* row = forward(m.trunk, streamed);

    if (expected.empty()) expected = sent;
    EXPECT_EQ(sent, expected) << on.name();
    EXPECT_EQ(std::vector<float>(row, row + config.vocab), expected) << on.name();
    world.dismiss_lanes();
  }
}

}  // namespace
}  // namespace kt
