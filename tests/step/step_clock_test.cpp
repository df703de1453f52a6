#include "runtime/step/step_clock.h"

#include <gtest/gtest.h>

#include <thread>

#include "runtime/base/error.h"
#include "runtime/step/step.h"

namespace kt {
namespace {

constexpr auto kNap = std::chrono::milliseconds(2);

const PhaseTotals& decode_of(const StepTotals& totals) { return totals[static_cast<size_t>(Phase::decode)]; }

TEST(StepClock, TimeBelongsToThePartThatEndsAndNotToTheBreakBetweenSteps) {
  StepClock clock;
  clock.begin(Phase::decode, 3);
  std::this_thread::sleep_for(kNap);
  clock.lap(StepPart::mla, 100.0);
  clock.lap(StepPart::experts, 7.0);
  std::this_thread::sleep_for(kNap);
  clock.begin(Phase::decode, 2);
  clock.lap(StepPart::experts, 7.0);

  const PhaseTotals& decode = decode_of(clock.totals());
  const double nap = std::chrono::duration<double>(kNap).count();
  EXPECT_EQ(decode.steps, 2);
  EXPECT_EQ(decode.rows, 5);
  EXPECT_GE(decode[StepPart::mla].seconds, nap);
  EXPECT_GE(decode[StepPart::experts].seconds, 0.0);
  EXPECT_EQ(decode[StepPart::mla].bytes, 100.0);
  EXPECT_EQ(decode[StepPart::experts].bytes, 14.0);
  EXPECT_EQ(clock.totals()[static_cast<size_t>(Phase::prefill)].steps, 0);
}

TEST(StepClock, TotalsSurviveAMessageAndSubtract) {
  StepClock clock(2);
  clock.begin(Phase::decode, 1);
  clock.enter(1);
  clock.lap(StepPart::experts, 4.0);
  clock.enter(-1);
  clock.lap(StepPart::head, 5.0);
  clock.sent(10);
  const ClockReading earlier = clock.reading();
  clock.begin(Phase::decode, 4);
  clock.enter(1);
  clock.lap(StepPart::experts, 3.0);
  clock.enter(-1);
  clock.lap(StepPart::head, 6.0);
  clock.sent(7);

  const ClockReading later = decode_clock_reading(encode(clock.reading()));
  const StepTotals difference = later.parts - earlier.parts;
  EXPECT_EQ(decode_of(difference).steps, 1);
  EXPECT_EQ(decode_of(difference).rows, 4);
  EXPECT_EQ(decode_of(difference).sent_bytes, 7);
  EXPECT_EQ(decode_of(difference)[StepPart::head].bytes, 6.0);
  const LayerTotals layers = later.layers - earlier.layers;
  ASSERT_EQ(layers.size(), 2u);
  EXPECT_EQ(layers[0][static_cast<size_t>(Phase::decode)].work.bytes, 0.0);
  EXPECT_EQ(layers[1][static_cast<size_t>(Phase::decode)].work.bytes, 3.0);
  EXPECT_EQ((layers + layers)[1][static_cast<size_t>(Phase::decode)].work.bytes, 6.0);
  const std::vector<std::byte> bytes = encode(earlier);
  EXPECT_THROW(decode_clock_reading(std::span(bytes).subspan(1)), Error);
}

TEST(StepClock, ALayersWaitIsApartFromItsWork) {
  StepClock clock(1);
  clock.begin(Phase::prefill, 1);
  clock.enter(0);
  std::this_thread::sleep_for(kNap);
  clock.lap(StepPart::wait);
  clock.lap(StepPart::experts, 8.0);

  const LayerTotal& layer = clock.reading().layers[0][static_cast<size_t>(Phase::prefill)];
  EXPECT_GE(layer.wait_s, std::chrono::duration<double>(kNap).count());
  EXPECT_LT(layer.work.seconds, layer.wait_s);
  EXPECT_EQ(layer.work.bytes, 8.0);
}

TEST(StepClock, AStepWithOneTokenOfEachSequenceIsDecode) {
  const StepPlan decode{.slices = {{.count = 1}, {.count = 1}}, .tokens = {1, 2}};
  const StepPlan mixed{.slices = {{.count = 1}, {.count = 2}}, .tokens = {1, 2, 3}};
  EXPECT_EQ(phase_of(decode), Phase::decode);
  EXPECT_EQ(phase_of(mixed), Phase::prefill);
}

}  // namespace
}  // namespace kt
