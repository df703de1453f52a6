#include "runtime/recording/recording_files.h"

#include <algorithm>
#include <array>
#include <memory>
#include <numeric>

#include "runtime/recording/torch_file.h"

namespace kt {
namespace {

size_t kept_passes(const RecorderConfig& config, const RecordedPasses& passes) {
  return config.passes < 0 ? passes.size() : static_cast<size_t>(config.passes);
}

std::array<int64_t, 2> pass_shape(const RecorderConfig& config) { return {std::ssize(config.moe), config.experts}; }

std::array<int64_t, 3> shape_of(const RecorderConfig& config, size_t passes) {
  return {static_cast<int64_t>(passes), std::ssize(config.moe), config.experts};
}

void write_list(PickleWriter& pickle, std::string_view key, std::span<const int32_t> numbers) {
  pickle.text(key);
  pickle.begin_list();
  for (const int32_t n : numbers) pickle.integer(n);
  pickle.end_list();
}

void write_number(PickleWriter& pickle, std::string_view key, int64_t number) {
  pickle.text(key);
  pickle.integer(number);
}

void write_record(TorchWriter& writer, const RecorderConfig& config, const RecordedPass& pass) {
  PickleWriter& pickle = writer.pickle;
  pickle.begin_dict();
  write_number(pickle, "forward_pass_id", static_cast<int64_t>(pass.step));
  write_number(pickle, "rank", 0);
  pickle.text("gatherer_key");
  pickle.text("primary");
  pickle.text("global_physical_count");
  writer.tensor<int32_t>(pass.counts, pass_shape(config));
  if (config.mode == RecorderMode::per_token) {
    pickle.text("topk_ids_of_layer");
    writer.tensor<int32_t>(
        pass.ids, std::array<int64_t, 3>{std::ssize(config.moe), std::ssize(pass.tokens), int64_t{config.top_k}});
    write_number(pickle, "forward_mode", pass.forward_mode);
    write_list(pickle, "input_ids", pass.tokens);
    write_list(pickle, "positions", pass.positions);
    write_list(pickle, "extend_seq_lens", pass.lengths);
  }
  pickle.end_dict();
}

}  // namespace

void write_stat(const std::filesystem::path& file, const RecorderConfig& config, const RecordedPasses& passes) {
  const size_t kept = kept_passes(config, passes);
  const size_t pairs = config.moe.size() * static_cast<size_t>(config.experts);
  std::vector<int32_t> counts(kept * pairs);
  for (size_t i = 0; i < passes.size(); ++i)
    std::copy(passes[i].counts.begin(), passes[i].counts.end(),
              counts.begin() + static_cast<std::ptrdiff_t>(i * pairs));

  TorchWriter writer(file);
  writer.pickle.begin_dict();
  write_number(writer.pickle, "rank", 0);
  writer.pickle.text("logical_count");
  writer.tensor<int32_t>(counts, shape_of(config, kept));
  writer.pickle.text("average_utilization_rate_over_window");
  writer.pickle.none();
  writer.pickle.end_dict();
  writer.finish();
}

void write_records(const std::filesystem::path& file, const RecorderConfig& config, const RecordedPasses& passes) {
  TorchWriter writer(file);
  writer.pickle.begin_dict();
  writer.pickle.text("records");
  writer.pickle.begin_list();
  for (const RecordedPass& pass : passes) write_record(writer, config, pass);
  writer.pickle.end_list();

  std::vector<int64_t> experts(config.moe.size() * static_cast<size_t>(config.experts));
  for (size_t i = 0; i < experts.size(); ++i) experts[i] = static_cast<int64_t>(i) % config.experts;
  writer.pickle.text("last_physical_to_logical_map");
  writer.tensor<int64_t>(experts, pass_shape(config));
  writer.pickle.end_dict();
  writer.finish();
}

void write_hot_sets(const std::filesystem::path& file, const RecorderConfig& config, const RecordedPasses& passes) {
  const size_t kept = kept_passes(config, passes), layers = config.moe.size();
  const auto experts = static_cast<size_t>(config.experts);
  const auto masks = std::make_unique<bool[]>(kept * layers * experts);
  for (size_t i = 0; i < passes.size(); ++i) {
    for (size_t layer = 0; layer < layers; ++layer) {
      bool* row = &masks[(i * layers + layer) * experts];
      if (!config.moe[layer]) std::fill_n(row, experts, true);
      if (passes[i].hot)
        for (const int32_t expert : (*passes[i].hot)[layer]) row[expert] = true;
    }
  }

  TorchWriter writer(file);
  writer.pickle.begin_dict();
  writer.pickle.text("gpu_expert_masks");
  writer.tensor<bool>({masks.get(), kept * layers * experts}, shape_of(config, kept));
  writer.pickle.end_dict();
  writer.finish();
}

}  // namespace kt
