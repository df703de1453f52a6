#include "runtime/step/step.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "runtime/base/error.h"

namespace kt {
namespace {

StepPlan two_slices() {
  return {.step = 77,
          .slices = {{.slot = 3, .first = 64, .count = 2, .logits_from = 1, .prompt = 65, .load = 5},
                     {.slot = 0, .first = 0, .count = 1, .logits_from = 1}},
          .tokens = {5, 6, 7},
          .blocks = {9, 2, 4},
          .block_begin = {0, 2, 3}};
}

void expect_refused(const StepPlan& plan) { EXPECT_THROW(decode_step_plan(encode(plan)), Error); }

TEST(StepPlan, SurvivesTheWire) {
  const StepPlan plan = two_slices();

  const StepPlan got = decode_step_plan(encode(plan));

  EXPECT_EQ(got.step, plan.step);
  EXPECT_EQ(got.tokens, plan.tokens);
  EXPECT_EQ(got.blocks, plan.blocks);
  EXPECT_EQ(got.block_begin, plan.block_begin);
  ASSERT_EQ(got.slices.size(), 2u);
  EXPECT_EQ(got.slices[0].slot, 3);
  EXPECT_EQ(got.slices[0].first, 64);
  EXPECT_EQ(got.slices[0].count, 2);
  EXPECT_EQ(got.slices[0].logits_from, 1);
  EXPECT_EQ(got.slices[0].prompt, 65);
  EXPECT_EQ(got.slices[0].load, 5);
  EXPECT_EQ(got.slices[0].save, -1);
  EXPECT_EQ(got.logit_rows(), 1);
}

TEST(StepPlan, SavesStatesAtMultiplesOfABlockOnly) {
  StepPlan plan{.slices = {{.slot = 0, .first = 64, .count = 130, .logits_from = 130, .load = 1, .save = 2}},
                .tokens = std::vector<int32_t>(130, 1),
                .blocks = {1, 2, 3, 4},
                .block_begin = {0, 4}};
  for (const int after : {64, 128}) {
    plan.slices[0].save_after = after;
    EXPECT_EQ(decode_step_plan(encode(plan)).slices[0].save_after, after);
  }
  for (const int after : {-64, 0, 63, 130, 192}) {
    plan.slices[0].save_after = after;
    expect_refused(plan);
  }
}

TEST(StepPlan, MayBeEmpty) {
  const StepPlan got = decode_step_plan(encode(StepPlan{}));

  EXPECT_EQ(got.rows(), 0);
  EXPECT_EQ(got.block_begin, std::vector<int32_t>{0});
}

TEST(StepPlan, IsRefusedWhenItsNumbersDisagree) {
  const auto changed = [](auto change) {
    StepPlan plan = two_slices();
    change(plan);
    expect_refused(plan);
  };
  changed([](StepPlan& p) { p.slices[0].slot = -1; });
  changed([](StepPlan& p) { p.slices[0].first = -64; });
  changed([](StepPlan& p) { p.slices[0].first = 2'147'483'647; });
  changed([](StepPlan& p) { p.slices[0].first = 128; });
  changed([](StepPlan& p) { p.slices[0].count = 0; });
  changed([](StepPlan& p) { p.slices[0].count = 3; });
  changed([](StepPlan& p) { p.slices[0].logits_from = 3; });
  changed([](StepPlan& p) { p.slices[0].logits_from = -1; });
  changed([](StepPlan& p) { p.slices[0].prompt = -1; });
  changed([](StepPlan& p) { p.slices[0].load = -2; });
  changed([](StepPlan& p) { p.slices[1].load = 0; });
  changed([](StepPlan& p) { p.slices[0].first = 63; });
  changed([](StepPlan& p) { p.slices[0].save = -2; });
  changed([](StepPlan& p) { p.slices[0].save_after = -1; });
  changed([](StepPlan& p) { p.slices[0] = {.first = 2'147'483'647, .count = 2, .save = 0, .save_after = 1}; });
  changed([](StepPlan& p) { p.tokens.pop_back(); });
  changed([](StepPlan& p) { p.tokens[1] = -5; });
  changed([](StepPlan& p) { p.blocks[0] = -1; });
  changed([](StepPlan& p) { p.block_begin = {0, 1, 3}; });
  changed([](StepPlan& p) { p.block_begin = {1, 2, 3}; });
  changed([](StepPlan& p) { p.block_begin = {0, 2, 2}; });
  changed([](StepPlan& p) { p.block_begin = {0, 2'000'000'000, 3}; });
}

TEST(StepPlan, IsRefusedWhenCutAnywhereOrTooLong) {
  std::vector<std::byte> bytes = encode(two_slices());
  for (size_t length = 0; length < bytes.size(); ++length) {
    EXPECT_THROW(decode_step_plan(std::span(bytes).first(length)), Error) << length;
  }
  bytes.push_back(std::byte{0});
  EXPECT_THROW(decode_step_plan(bytes), Error);
}

TEST(StepPlan, OfAnotherVersionOrKindIsRefused) {
  for (const size_t at : {size_t{0}, size_t{4}}) {
    std::vector<std::byte> bytes = encode(two_slices());
    bytes[at] ^= std::byte{0xff};
    EXPECT_THROW(decode_step_plan(bytes), Error);
  }
}

// Never reads beyond its bytes nor asks for absurd memory; the sanitizer builds watch.
TEST(StepPlan, WithRandomBytesIsReadOrRefused) {
  std::mt19937 random(1);
  const std::vector<std::byte> good = encode(two_slices());
  int refused = 0;
  for (int round = 0; round < 20'000; ++round) {
    std::vector<std::byte> bytes = good;
    for (int change = 0; change < 3; ++change) bytes[random() % bytes.size()] = static_cast<std::byte>(random());
    try {
      decode_step_plan(bytes);
    } catch (const Error&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 5000);
}

}  // namespace
}  // namespace kt
