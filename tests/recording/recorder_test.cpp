#include "runtime/recording/recorder.h"

#include <gmock/gmock.h>

#include <limits>
#include <string>
#include <thread>

#include "runtime/base/error.h"
#include "runtime/recording/counts_file.h"
#include "runtime/recording/torch_file.h"
#include "tests/temp_folder.h"

namespace kt {
namespace {

using testing::ElementsAre;
using testing::ElementsAreArray;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::MatchesRegex;
using testing::SizeIs;

// A dense layer before two of three experts, of which each row chooses two.
RecorderConfig config_in(const TempFolder& folder, RecorderMode mode = RecorderMode::stat, int passes = 4) {
  return {
      .mode = mode, .passes = passes, .folder = folder.path(), .moe = {false, true, true}, .experts = 3, .top_k = 2};
}

RecordedStep step_of(const std::vector<int32_t>& counts, uint64_t step = 1) { return {.step = step, .counts = counts}; }

std::vector<double> tensor(const TorchReader& file, const PickleValue& dict, std::string_view key) {
  return file.numbers(*dict.find(key)->as<PickleTensor>());
}
std::vector<int64_t> shape(const PickleValue& dict, std::string_view key) {
  return dict.find(key)->as<PickleTensor>()->shape;
}
std::vector<int64_t> list(const PickleValue& dict, std::string_view key) {
  std::vector<int64_t> numbers;
  for (const PickleValue* value : *dict.find(key)->as<PickleValue::Sequence>())
    numbers.push_back(*value->as<int64_t>());
  return numbers;
}

const std::vector<int32_t> kFirst = {0, 0, 0, 2, 1, 1, 0, 2, 2}, kSecond = {0, 0, 0, 1, 1, 0, 1, 0, 1},
                           kThird = {0, 0, 0, 0, 5, 5, 5, 5, 0};

// The steps of the records in the only file of a dump.
std::vector<int64_t> recorded_steps(Recorder& recorder) {
  const TorchReader file(recorder.dump().at(0));
  std::vector<int64_t> steps;
  for (const PickleValue* record : *file.root().find("records")->as<PickleValue::Sequence>())
    steps.push_back(*record->find("forward_pass_id")->as<int64_t>());
  return steps;
}

TEST(Recorder, KeepsNothingUntilItIsStartedAndAfterItIsStopped) {
  const TempFolder folder;
  Recorder recorder(config_in(folder));

  recorder.record(step_of(kFirst));
  EXPECT_FALSE(recorder.recording());
  EXPECT_THAT(recorder.dump(), IsEmpty());
  EXPECT_TRUE(recorder.start());
  EXPECT_TRUE(recorder.recording());
  EXPECT_FALSE(recorder.start());
  recorder.record(step_of(kSecond));
  EXPECT_TRUE(recorder.stop());
  EXPECT_FALSE(recorder.stop());
  recorder.record(step_of(kThird));

  EXPECT_THAT(read_counts(recorder.dump().at(0)).counts, ElementsAreArray(kSecond));
}

TEST(Recorder, StartForgetsWhatWasRecorded) {
  const TempFolder folder;
  Recorder recorder(config_in(folder));
  recorder.start();
  recorder.record(step_of(kFirst));

  recorder.start();
  recorder.record(step_of(kSecond));

  EXPECT_THAT(read_counts(recorder.dump().at(0)).counts, ElementsAreArray(kSecond));
}

TEST(Recorder, DumpForgetsWhatItWroteAndGoesOn) {
  const TempFolder folder;
  Recorder recorder(config_in(folder));
  recorder.start();
  recorder.record(step_of(kFirst));

  const auto first = recorder.dump();
  EXPECT_THAT(recorder.dump(), IsEmpty());
  recorder.record(step_of(kSecond));
  const auto second = recorder.dump();

  EXPECT_THAT(read_counts(first.at(0)).counts, ElementsAreArray(kFirst));
  EXPECT_THAT(read_counts(second.at(0)).counts, ElementsAreArray(kSecond));
}

TEST(Recorder, StatHasARowForEachPassAndZerosInTheRest) {
  const TempFolder folder;
  Recorder recorder(config_in(folder));
  recorder.start();
  recorder.record(step_of(kFirst));
  recorder.record(step_of(kSecond));

  const auto files = recorder.dump();

  ASSERT_THAT(files, SizeIs(1));
  EXPECT_THAT(files[0].filename().string(), MatchesRegex("expert_distribution_recorder_[0-9]+\\.[0-9]+\\.pt"));
  const TorchReader file(files[0]);
  EXPECT_THAT(shape(file.root(), "logical_count"), ElementsAre(4, 3, 3));
  std::vector<double> expected(kFirst.begin(), kFirst.end());
  expected.insert(expected.end(), kSecond.begin(), kSecond.end());
  expected.resize(4 * 9);
  EXPECT_EQ(tensor(file, file.root(), "logical_count"), expected);
  EXPECT_EQ(*file.root().find("rank")->as<int64_t>(), 0);
  EXPECT_TRUE(file.root().find("average_utilization_rate_over_window")->as<std::monostate>());
}

TEST(Recorder, StatAddsUpThePassesThatNoLongerHaveARow) {
  const TempFolder folder;
  Recorder recorder(config_in(folder, RecorderMode::stat, 2));
  recorder.start();
  for (const auto& counts : {kFirst, kSecond, kThird}) recorder.record(step_of(counts));

  const TorchReader file(recorder.dump().at(0));

  EXPECT_THAT(tensor(file, file.root(), "logical_count"),
              ElementsAre(0, 0, 0, 3, 2, 1, 1, 2, 3, 0, 0, 0, 0, 5, 5, 5, 5, 0));
}

TEST(Recorder, StatStopsAtTheLargestNumber) {
  const TempFolder folder;
  RecorderConfig config = config_in(folder, RecorderMode::stat, 1);
  config.moe = {true};
  config.experts = 1;
  Recorder recorder(config);
  constexpr int32_t kLargest = std::numeric_limits<int32_t>::max();
  recorder.start();
  recorder.record(step_of({kLargest - 1}));
  recorder.record(step_of({2}));

  EXPECT_THAT(read_counts(recorder.dump().at(0)).counts, ElementsAre(kLargest));
}

TEST(Recorder, WithoutALimitStatHasAsManyRowsAsPasses) {
  const TempFolder folder;
  Recorder recorder(config_in(folder, RecorderMode::stat, -1));
  recorder.start();
  for (int i = 0; i < 7; ++i) recorder.record(step_of(kFirst));

  const TorchReader file(recorder.dump().at(0));

  EXPECT_THAT(shape(file.root(), "logical_count"), ElementsAre(7, 3, 3));
}

TEST(Recorder, PerPassHasARecordForEachOfTheLastPasses) {
  const TempFolder folder;
  Recorder recorder(config_in(folder, RecorderMode::per_pass, 2));
  recorder.start();
  recorder.record(step_of(kFirst, 11));
  recorder.record(step_of(kSecond, 12));
  recorder.record(step_of(kThird, 13));

  const auto files = recorder.dump();

  EXPECT_THAT(files.at(0).filename().string(), MatchesRegex("expert_distribution_recorder_[0-9]+\\.[0-9]+_0\\.pt"));
  const TorchReader file(files[0]);
  EXPECT_THAT(tensor(file, file.root(), "last_physical_to_logical_map"), ElementsAre(0, 1, 2, 0, 1, 2, 0, 1, 2));
  const auto& records = *file.root().find("records")->as<PickleValue::Sequence>();
  ASSERT_THAT(records, SizeIs(2));
  EXPECT_EQ(*records[0]->find("forward_pass_id")->as<int64_t>(), 12);
  EXPECT_EQ(*records[0]->find("rank")->as<int64_t>(), 0);
  EXPECT_EQ(*records[0]->find("gatherer_key")->as<std::string>(), "primary");
  EXPECT_THAT(shape(*records[0], "global_physical_count"), ElementsAre(3, 3));
  EXPECT_THAT(tensor(file, *records[0], "global_physical_count"), ElementsAreArray(kSecond));
  EXPECT_THAT(tensor(file, *records[1], "global_physical_count"), ElementsAreArray(kThird));
  EXPECT_THAT(read_counts(files[0]).counts, ElementsAre(0, 0, 0, 1, 6, 5, 6, 5, 1));
}

TEST(Recorder, PerTokenSaysWhichTokenChoseWhat) {
  const TempFolder folder;
  Recorder recorder(config_in(folder, RecorderMode::per_token));
  const std::vector<int32_t> counts = {0, 0, 0, 3, 2, 1, 1, 3, 2}, tokens = {100, 101, 7},
                             ids = {-1, -1, -1, -1, -1, -1, 0, 1, 1, 0, 2, 0, 1, 2, 0, 1, 2, 1};
  const std::vector<RecordedSlice> slices = {{64, 2}, {9, 1}};
  recorder.start();
  recorder.record({.step = 5, .counts = counts, .ids = ids, .tokens = tokens, .slices = slices, .decode_rows = 1});

  EXPECT_TRUE(recorder.wants_ids());
  const TorchReader file(recorder.dump().at(0));
  const PickleValue& record = *file.root().find("records")->as<PickleValue::Sequence>()->at(0);
  EXPECT_THAT(shape(record, "topk_ids_of_layer"), ElementsAre(3, 3, 2));
  EXPECT_THAT(tensor(file, record, "topk_ids_of_layer"), ElementsAreArray(ids));
  EXPECT_THAT(tensor(file, record, "global_physical_count"), ElementsAreArray(counts));
  EXPECT_THAT(list(record, "input_ids"), ElementsAre(100, 101, 7));
  EXPECT_THAT(list(record, "positions"), ElementsAre(64, 65, 9));
  EXPECT_THAT(list(record, "extend_seq_lens"), ElementsAre(2, 1));
  EXPECT_EQ(*record.find("forward_mode")->as<int64_t>(), 3);
}

TEST(Recorder, PerTokenTellsPromptsFromAnswers) {
  const TempFolder folder;
  Recorder recorder(config_in(folder, RecorderMode::per_token));
  const std::vector<int32_t> tokens = {1, 2}, ids(12);
  recorder.start();
  recorder.record({.counts = kFirst, .ids = ids, .tokens = tokens, .decode_rows = 0});
  recorder.record({.counts = kFirst, .ids = ids, .tokens = tokens, .decode_rows = 2});

  const TorchReader file(recorder.dump().at(0));
  const auto& records = *file.root().find("records")->as<PickleValue::Sequence>();

  EXPECT_EQ(*records[0]->find("forward_mode")->as<int64_t>(), 1);
  EXPECT_EQ(*records[1]->find("forward_mode")->as<int64_t>(), 2);
}

TEST(Recorder, HotSetsAreAMaskForEachPass) {
  const TempFolder folder;
  RecorderConfig config = config_in(folder);
  config.hot_sets = true;
  Recorder recorder(config);
  const HotSets before = {{}, {0}, {1, 2}}, after = {{}, {2}, {1, 2}};
  recorder.start();
  recorder.record({.counts = kFirst, .hot = &before});
  recorder.record({.counts = kFirst, .hot = &before});
  recorder.record({.counts = kFirst, .hot = &after});

  const auto files = recorder.dump();

  ASSERT_THAT(files, SizeIs(2));
  EXPECT_THAT(files[1].filename().string(), MatchesRegex("gpu_expert_distribution_[0-9]+\\.[0-9]+\\.pt"));
  const TorchReader file(files[1]);
  EXPECT_EQ(file.root().find("gpu_expert_masks")->as<PickleTensor>()->storage.type, "BoolStorage");
  EXPECT_THAT(shape(file.root(), "gpu_expert_masks"), ElementsAre(4, 3, 3));
  std::vector<double> expected = {1, 1, 1, 1, 0, 0, 0, 1, 1,   //
                                  1, 1, 1, 1, 0, 0, 0, 1, 1,   //
                                  1, 1, 1, 0, 0, 1, 0, 1, 1};  //
  expected.resize(4 * 9);
  EXPECT_EQ(tensor(file, file.root(), "gpu_expert_masks"), expected);
}

TEST(Recorder, AFolderThatCannotBeIsAnErrorThatForgetsNothing) {
  const TempFolder folder;
  folder.write("taken", "");
  RecorderConfig config = config_in(folder);
  config.folder = folder.path() / "taken" / "deeper";
  Recorder recorder(config);
  recorder.start();
  recorder.record(step_of(kFirst));

  try {
    recorder.dump();
    FAIL() << "nothing was thrown";
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), HasSubstr("SGLANG_EXPERT_DISTRIBUTION_RECORDER_DIR"));
  }
  std::filesystem::remove(folder.path() / "taken");
  EXPECT_THAT(read_counts(recorder.dump().at(0)).counts, ElementsAreArray(kFirst));
}

TEST(Recorder, MayBeStartedAndDumpedWhileStepsAreRecorded) {
  const TempFolder folder;
  Recorder recorder(config_in(folder));
  recorder.start();
  uint64_t seen = 0;
  {
    std::jthread steps([&] {
      for (int i = 0; i < 300; ++i) recorder.record(step_of(kSecond));
    });
    for (int i = 0; i < 5; ++i)
      for (const auto& file : recorder.dump()) seen += read_counts(file).counts[3];
  }
  for (const auto& file : recorder.dump()) seen += read_counts(file).counts[3];

  EXPECT_EQ(seen, 300u);
}

TEST(Recorder, StaysWithinItsMemoryWhateverTheNumberOfSteps) {
  const TempFolder folder;
  RecorderConfig config = config_in(folder, RecorderMode::per_pass, -1);
  config.most_bytes = 2 * kFirst.size() * sizeof(int32_t);
  Recorder recorder(config);
  recorder.start();
  for (uint64_t step : {1, 2, 3, 4, 5}) recorder.record(step_of(kFirst, step));
  EXPECT_THAT(recorded_steps(recorder), ElementsAre(4, 5));
  recorder.record(step_of(kFirst, 6));
  EXPECT_THAT(recorded_steps(recorder), ElementsAre(6));
}

TEST(Recorder, KeepsTheLastStepEvenIfItAloneIsTooMuch) {
  const TempFolder folder;
  RecorderConfig config = config_in(folder, RecorderMode::per_pass, -1);
  config.most_bytes = 1;
  Recorder recorder(config);
  recorder.start();
  for (uint64_t step : {1, 2}) recorder.record(step_of(kFirst, step));
  EXPECT_THAT(recorded_steps(recorder), ElementsAre(2));
}

}  // namespace
}  // namespace kt
