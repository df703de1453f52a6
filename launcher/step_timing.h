#pragma once

#include <array>
#include <utility>
#include <vector>

#include "runtime/rank/job.h"

namespace kt {

// Sums of the steps' reports, by phase: who computed the experts, and what came to the first trunk rank.
struct RoutedTotals {
  int64_t pairs = 0, hot_pairs = 0, streamed_bytes = 0, moved_bytes = 0;
  double weight = 0.0, late_weight = 0.0;
};
using RoutedByPhase = std::array<RoutedTotals, kPhases>;

class RoutedSums final : public StepObserver {
 public:
  void after(const StepPlan& plan, const StepReport& report) override;
  RoutedByPhase take() { return std::exchange(sums_, {}); }  // since it was last taken

 private:
  RoutedByPhase sums_ = {};
};

// How long steps took on rank 0, and what the time of every rank went into meanwhile.
struct StepTiming {
  std::vector<double> prefill_s;      // of each round: until every prompt of the batch was computed
  std::vector<double> decode_s;       // of each decode step of the whole batch
  std::vector<ClockReading> by_rank;  // of all these steps
  RoutedByPhase routed = {};          // likewise

  void operator+=(const StepTiming& more);
};

// Prompts of random tokens and then `decode` further tokens each, by an engine of its own.
StepTiming time_prompts(const JobRank& job, ClusterRunner& runner, int batch, int prompt, int decode);

// Decode steps alone, of sequences that are said to have `context` tokens; the cache must hold numbers for them.
StepTiming time_contexts(const JobRank& job, ClusterRunner& runner, int batch, int context, int decode);

// Positions that either takes of the KV cache.
int64_t cache_tokens(int batch, int tokens, int decode);

}  // namespace kt
