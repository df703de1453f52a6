#pragma once

#include <nlohmann/json_fwd.hpp>
#include <vector>

#include "launcher/step_timing.h"

namespace kt {

// Prints measurements of `ktmpi bench step` on rank 0: one JSON line each, or a table of its figures and below it, with
// a row for each rank, what their time went into. Times of several rounds or steps are given
// by their median, what every rank's time went into by the mean.
class StepLines {
 public:
  // `batch`: sequences at a time; `dram`: GB/s of every rank's threads when all of them read.
  StepLines(const JobRank& job, int batch, std::vector<double> dram, bool table)
      : job_(job), batch_(batch), dram_(std::move(dram)), table_(table) {}

  // `more`: an object whose members go into the line too.
  void prefill(int prompt, const StepTiming& timing, const nlohmann::ordered_json& more) const;
  // `measured`: whether the context was computed; else the cache holds arbitrary numbers.
  void decode(int context, const StepTiming& timing, bool measured, const nlohmann::ordered_json& more) const;

 private:
  nlohmann::ordered_json head(const char* phase, int tokens) const;
  nlohmann::ordered_json ranks(const StepTiming& timing, Phase phase) const;
  void print(nlohmann::ordered_json line, const StepTiming& timing, Phase phase) const;

  const JobRank& job_;
  int batch_;
  std::vector<double> dram_;
  bool table_;
};

}  // namespace kt
