#pragma once

#include <vector>

#include "launcher/job.h"

namespace kt {

// How long steps took on rank 0, and what the time of every rank went into meanwhile.
struct StepTiming {
  std::vector<double> prefill_s;    // of each round: until every prompt of the batch was computed
  std::vector<double> decode_s;     // of each decode step of the whole batch
  std::vector<StepTotals> by_rank;  // of all these steps

  void operator+=(const StepTiming& more);
};

// Prompts of random tokens and then `decode` further tokens each, by an engine of its own.
StepTiming time_prompts(const JobRank& job, ClusterRunner& runner, int batch, int prompt, int decode);

// Decode steps alone, of sequences that are said to have `context` tokens; the cache must hold numbers for them.
StepTiming time_contexts(const JobRank& job, ClusterRunner& runner, int batch, int context, int decode);

// Positions that either takes of the KV cache.
int64_t cache_tokens(int batch, int tokens, int decode);

}  // namespace kt
