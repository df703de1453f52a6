// Hot experts that are exchanged while steps go on, on every device: they change who computes, and no bit.

#include "runtime/model/experts/expert_mover.h"

#include <gtest/gtest.h>

#include "runtime/base/error.h"
#include "tests/model/expert_world.h"

namespace kt {
namespace {

const Arch& arch() { return find_arch(nlohmann::json{{"model_type", "qwen3_moe"}}); }

TEST(ExpertMover, NewcomersTakeOverWithoutABitsChange) {
  const ModelConfig config = routed_model();
  std::vector<float> expected;
  for (const TestDevice& on : test_devices()) {
    const ExpertWorld world(config, arch(), on);
    Machine m(config, "qwen3_moe", on, {.hot_experts = 3, .spare_experts = 3},
              {world.transports[0].get(), world.topology(0), world.dispatch.get()});
    m.trunk.experts->mover = std::make_unique<ExpertMover>(m.trunk, *world.lane, world.side_dispatch.get());
    const std::vector<float> cold = m.logits({{0, 70}});
    if (expected.empty()) expected = cold;
    EXPECT_EQ(cold, expected) << on.name();

    const auto step = [&](const StepOrders& orders) {
      StepPlan plan = m.plan({0, 70});
      plan.orders = orders;
      const float* row = forward(m.trunk, plan);
      return std::vector<float>(row, row + config.vocab);
    };
    EXPECT_EQ(step({.bring = {{.layer = 0, .in = 1}, {.layer = 1, .in = 4}, {.layer = 1, .in = 0}}}), expected);
    EXPECT_FALSE(m.trunk.experts->hot->holds(0, 1));
    EXPECT_EQ(m.trunk.report.hot_pairs, 0);
    EXPECT_EQ(step({.take_over = true}), expected) << on.name();
    EXPECT_TRUE(m.trunk.experts->hot->holds(0, 1));
    EXPECT_TRUE(m.trunk.experts->hot->holds(1, 4));
    EXPECT_GT(m.trunk.report.hot_pairs, 0);

    EXPECT_EQ(step({.bring = {{.layer = 1, .in = 5, .out = 4}}}), expected);
    EXPECT_EQ(step({.take_over = true}), expected) << on.name();
    EXPECT_TRUE(m.trunk.experts->hot->holds(1, 5));
    EXPECT_FALSE(m.trunk.experts->hot->holds(1, 4));
    m.trunk.experts->mover.reset();
  }
}

TEST(ExpertMover, OrdersThatCannotBeAreRefused) {
  const ModelConfig config = routed_model();
  Machine m(config, "qwen3_moe", test_devices().front(), {.hot_experts = 1});
  const auto order = [&](const StepOrders& orders) { move_experts(m.trunk, orders); };

  EXPECT_THROW(order({.moves = {{.layer = 2, .in = 0}}}), Error);
  EXPECT_THROW(order({.moves = {{.layer = 0, .in = 8}}}), Error);
  EXPECT_THROW(order({.moves = {{.layer = 0, .in = -1, .out = 3}}}), Error);
  EXPECT_THROW(order({.bring = {{.layer = 0, .in = 0}}}), Error);
  EXPECT_THROW(order({.take_over = true}), Error);
  EXPECT_THROW(order({.moves = {{.layer = 0, .in = 0}, {.layer = 0, .in = 1}}}), Error);
}

}  // namespace
}  // namespace kt
