#include "runtime/engine/step_recorder.h"

#include <gmock/gmock.h>

#include "runtime/recording/counts_file.h"
#include "runtime/recording/torch_file.h"
#include "runtime/step/step.h"
#include "tests/temp_folder.h"

namespace kt {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

RecorderConfig config_in(const TempFolder& folder, RecorderMode mode) {
  return {.mode = mode, .folder = folder.path(), .moe = {true}, .experts = 3, .top_k = 1};
}

const PickleValue& only_record(const TorchReader& file) {
  return *file.root().find("records")->as<PickleValue::Sequence>()->at(0);
}

// A chunk of a prompt, and the next token of an answer.
StepPlan mixed_plan() {
  return {.step = 9, .slices = {{.first = 64, .count = 2}, {.first = 10, .count = 1}}, .tokens = {5, 6, 7}};
}

TEST(StepRecorder, OrdersNothingWhileTheRecorderIsOff) {
  const TempFolder folder;
  Recorder recorder(config_in(folder, RecorderMode::per_token));
  StepRecorder steps(recorder, nullptr);
  StepOrders orders;

  steps.before(mixed_plan(), orders);

  EXPECT_FALSE(orders.counts);
  EXPECT_FALSE(orders.ids);
}

TEST(StepRecorder, OrdersIdsOnlyPerToken) {
  const TempFolder folder;
  for (const RecorderMode mode : {RecorderMode::stat, RecorderMode::per_pass, RecorderMode::per_token}) {
    Recorder recorder(config_in(folder, mode));
    StepRecorder steps(recorder, nullptr);
    StepOrders orders;
    recorder.start();

    steps.before(mixed_plan(), orders);

    EXPECT_TRUE(orders.counts);
    EXPECT_EQ(orders.ids, mode == RecorderMode::per_token);
  }
}

TEST(StepRecorder, LeavesWhatOthersOrderedAsItIs) {
  const TempFolder folder;
  Recorder recorder(config_in(folder, RecorderMode::stat));
  StepRecorder steps(recorder, nullptr);
  StepOrders orders{.counts = true, .ids = true};

  steps.before(mixed_plan(), orders);

  EXPECT_TRUE(orders.counts && orders.ids);
}

TEST(StepRecorder, PassesOnTheReportAndTheRowsOfTheStep) {
  const TempFolder folder;
  Recorder recorder(config_in(folder, RecorderMode::per_token));
  StepRecorder steps(recorder, nullptr);
  recorder.start();

  steps.after(mixed_plan(), {.counts = {1, 0, 2}, .ids = {0, 2, 2}});
  const std::filesystem::path dumped = recorder.dump().at(0);

  EXPECT_THAT(read_counts(dumped).counts, ElementsAre(1, 0, 2));
  const TorchReader file(dumped);
  const PickleValue& record = only_record(file);
  EXPECT_EQ(*record.find("forward_pass_id")->as<int64_t>(), 9);
  EXPECT_EQ(*record.find("forward_mode")->as<int64_t>(), 3);
  EXPECT_THAT(file.numbers(*record.find("topk_ids_of_layer")->as<PickleTensor>()), ElementsAre(0, 2, 2));
  EXPECT_EQ(record.find("input_ids")->as<PickleValue::Sequence>()->size(), 3u);
  EXPECT_EQ(*record.find("positions")->as<PickleValue::Sequence>()->at(2)->as<int64_t>(), 10);
}

// Recording may be switched on between a step's orders and its report.
TEST(StepRecorder, AStepThatWasNotAskedToReportIsNoPartOfTheRecording) {
  const TempFolder folder;
  Recorder recorder(config_in(folder, RecorderMode::per_token));
  StepRecorder steps(recorder, nullptr);
  recorder.start();

  steps.after(mixed_plan(), {});
  steps.after(mixed_plan(), {.counts = {1, 0, 2}});  // for another observer

  EXPECT_THAT(recorder.dump(), IsEmpty());
}

TEST(StepRecorder, RecordsTheExpertsThatAreHot) {
  const TempFolder folder;
  RecorderConfig config = config_in(folder, RecorderMode::stat);
  config.hot_sets = true;
  config.passes = 1;
  Recorder recorder(config);
  const HotSets hot = {{0, 2}};
  StepRecorder steps(recorder, &hot);
  recorder.start();

  steps.after(mixed_plan(), {.counts = {1, 0, 2}});

  const TorchReader file(recorder.dump().at(1));
  EXPECT_THAT(file.numbers(*file.root().find("gpu_expert_masks")->as<PickleTensor>()), ElementsAre(1, 0, 1));
}

}  // namespace
}  // namespace kt
