#include "runtime/recording/recorder.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <string>
#include <utility>

#include "runtime/base/error.h"
#include "runtime/base/log.h"
#include "runtime/recording/recording_files.h"

namespace kt {
namespace {

// SGLang's numbers of what a pass is for.
enum ForwardMode : int { kPrompts = 1, kAnswers = 2, kBoth = 3 };

std::string seconds_since_1970() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return fmt::format("{:.6f}", std::chrono::duration<double>(now).count());
}

size_t bytes_of(const RecordedPass& pass) {
  return sizeof(int32_t) *
         (pass.counts.size() + pass.ids.size() + pass.tokens.size() + pass.positions.size() + pass.lengths.size());
}

}  // namespace

Recorder::Recorder(RecorderConfig config) : config_(std::move(config)) {}

bool Recorder::start() {
  const std::lock_guard lock(mutex_);
  forget();
  return !recording_.exchange(true);
}

bool Recorder::stop() {
  const std::lock_guard lock(mutex_);
  return recording_.exchange(false);
}

void Recorder::record(const RecordedStep& step) {
  const std::lock_guard lock(mutex_);
  if (!recording()) return;
  passes_.push_back(keep(step));
  bytes_ += bytes_of(passes_.back());
  if (config_.passes > 0 && passes_.size() > static_cast<size_t>(config_.passes)) forget_oldest();
  while (bytes_ > config_.most_bytes && passes_.size() > 1) {
    if (config_.mode != RecorderMode::stat && lost_++ == 0)
      log_warning("recording: {} steps fill {} MB; from now on the oldest make room", passes_.size() - 1,
                  config_.most_bytes / 1'000'000);
    forget_oldest();
  }
}

RecordedPass Recorder::keep(const RecordedStep& step) const {
  RecordedPass pass{.step = step.step, .counts = {step.counts.begin(), step.counts.end()}};
  if (config_.hot_sets && step.hot) {
    // The sets seldom change, so passes share them.
    const bool changed = passes_.empty() || !passes_.back().hot || *passes_.back().hot != *step.hot;
    pass.hot = changed ? std::make_shared<const HotSets>(*step.hot) : passes_.back().hot;
  }
  if (config_.mode != RecorderMode::per_token) return pass;
  pass.ids.assign(step.ids.begin(), step.ids.end());
  pass.tokens.assign(step.tokens.begin(), step.tokens.end());
  for (const RecordedSlice slice : step.slices) {
    pass.lengths.push_back(slice.count);
    for (int32_t i = 0; i < slice.count; ++i) pass.positions.push_back(slice.first + i);
  }
  const int rows = static_cast<int>(step.tokens.size());
  pass.forward_mode = step.decode_rows == 0 ? kPrompts : step.decode_rows == rows ? kAnswers : kBoth;
  return pass;
}

void Recorder::forget() {
  passes_.clear();
  bytes_ = 0;
  lost_ = 0;
}

// The counts of mode stat are only ever added up, so the oldest go to the next, at most to the largest there is.
void Recorder::forget_oldest() {
  const RecordedPass oldest = std::move(passes_.front());
  passes_.pop_front();
  bytes_ -= bytes_of(oldest);
  if (config_.mode != RecorderMode::stat || passes_.empty()) return;
  std::vector<int32_t>& next = passes_.front().counts;
  for (size_t i = 0; i < next.size(); ++i)
    next[i] = static_cast<int32_t>(
        std::min<int64_t>(int64_t{next[i]} + oldest.counts[i], std::numeric_limits<int32_t>::max()));
}

std::vector<std::filesystem::path> Recorder::dump() {
  const std::lock_guard lock(mutex_);
  if (passes_.empty()) return {};
  std::error_code error;
  std::filesystem::create_directories(config_.folder, error);
  if (error)
    fail(kExitUsage, "SGLANG_EXPERT_DISTRIBUTION_RECORDER_DIR {}: {}", config_.folder.string(), error.message());

  const std::string time = seconds_since_1970();
  std::vector<std::filesystem::path> files;
  if (config_.mode == RecorderMode::stat) {
    files.push_back(config_.folder / fmt::format("expert_distribution_recorder_{}.pt", time));
    write_stat(files.back(), config_, passes_);
  } else {
    files.push_back(config_.folder / fmt::format("expert_distribution_recorder_{}_0.pt", time));
    write_records(files.back(), config_, passes_);
  }
  if (config_.hot_sets) {
    files.push_back(config_.folder / fmt::format("gpu_expert_distribution_{}.pt", time));
    write_hot_sets(files.back(), config_, passes_);
  }
  if (lost_ > 0) log_warning("recording: written without the {} oldest steps, for which there was no room", lost_);
  forget();
  return files;
}

}  // namespace kt
