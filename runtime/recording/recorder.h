#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <memory>
#include <mutex>
#include <span>
#include <string_view>
#include <vector>

#include "runtime/placement/placement.h"

namespace kt {

enum class RecorderMode : uint8_t { stat, per_pass, per_token };

struct RecorderConfig {
  RecorderMode mode = RecorderMode::stat;
  bool hot_sets = false;  // also which experts were hot
  int passes = 1000;      // steps that are kept, at least 1; -1: all that fit into most_bytes
  size_t most_bytes = size_t{256} << 20;
  std::filesystem::path folder;  // for the files
  std::vector<bool> moe;         // one for each layer
  int experts = 0, top_k = 0;
};

// The tokens of one sequence in a step: positions first, first + 1, ...
struct RecordedSlice {
  int32_t first = 0, count = 0;
};

// What the router chose in one step.
struct RecordedStep {
  uint64_t step = 0;
  std::span<const int32_t> counts;  // [layers, experts]: rows that chose the expert; 0 in dense layers
  const HotSets* hot = nullptr;     // looked at with hot_sets; null: none is hot
  // Looked at in mode per_token.
  std::span<const int32_t> ids;           // [layers, rows, top_k]; -1 in dense layers
  std::span<const int32_t> tokens;        // [rows]
  std::span<const RecordedSlice> slices;  // together, the rows
  int decode_rows = 0;                    // rows that continue an answer
};

// A step as it is kept. Nothing of a mode that is not the recorder's is filled in.
struct RecordedPass {
  uint64_t step = 0;
  std::vector<int32_t> counts, ids, tokens, positions, lengths;
  int forward_mode = 0;
  std::shared_ptr<const HotSets> hot;
};

// Keeps what the router chose, step by step, on rank 0, where every row is counted once. When it is full the oldest
// steps make room; of mode stat their counts go on with the next, of others the log says how many were lost. The files
// are torch.save's, with the names and layouts of SGLang's recorder (see recording_files.h). All calls may come from
// any thread.
class Recorder {
 public:
  explicit Recorder(RecorderConfig config);

  bool recording() const { return recording_.load(std::memory_order_relaxed); }
  bool wants_ids() const { return config_.mode == RecorderMode::per_token; }

  bool start();  // forgets what was recorded; false: it was on already
  bool stop();   // false: it was off already
  // Does nothing while not recording.
  void record(const RecordedStep& step);
  // Writes what was recorded, forgets it, and names the files; none if nothing was. Throws Error(kExitUsage) when they
  // cannot be written; then nothing is forgotten. A step that ends meanwhile waits.
  std::vector<std::filesystem::path> dump();

 private:
  RecordedPass keep(const RecordedStep& step) const;
  void forget();
  void forget_oldest();

  const RecorderConfig config_;
  std::atomic<bool> recording_ = false;
  std::mutex mutex_;  // guards all below
  std::deque<RecordedPass> passes_;
  size_t bytes_ = 0;  // of them
  int64_t lost_ = 0;  // because of most_bytes
};

}  // namespace kt
