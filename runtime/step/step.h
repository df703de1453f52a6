#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "runtime/step/orders.h"
#include "runtime/step/step_clock.h"

namespace kt {

// Tokens in one page of the KV cache. Prefill chunks end at absolute multiples of it (or at the prompt's end).
inline constexpr int kBlockTokens = 64;

// What steps may name.
struct CacheLimits {
  int blocks = 0;     // pages of kBlockTokens tokens, shared by all sequences
  int slots = 0;      // running sequences
  int snapshots = 0;  // kept recurrent states; none are made for models without
};

// The part of one sequence that is in a step: `count` tokens at positions first, first+1, ...
struct SeqSlice {
  int32_t slot = 0;   // which running sequence: index of its recurrent state, below max_running_requests
  int32_t first = 0;  // position of the first token; 0 starts the sequence (its recurrent state is cleared)
  int32_t count = 0;
  int32_t logits_from = 0;  // logits are wanted for tokens [logits_from, count) of the slice; == count: none
  int32_t prompt = 0;  // length of the request's prompt; tokens from there on are an answer's, whoever computes them
  // Recurrent state, by number of the snapshot; -1: none. What is loaded is what was there before the step: its number
  // may be saved under in the same step.
  int32_t load = -1;       // the slot's state before the first token
  int32_t save = -1;       // where to keep the state after `save_after` tokens of the slice, at a multiple of
  int32_t save_after = 0;  // kBlockTokens
};

// One forward pass, the same on all trunk ranks. Values only: rank 0 makes it, sends it, and every rank obeys.
struct StepPlan {
  uint64_t step = 0;
  std::vector<SeqSlice> slices;
  std::vector<int32_t> tokens;       // of all slices, in order
  std::vector<int32_t> blocks;       // KV blocks of all slices, in order of position
  std::vector<int32_t> block_begin;  // slice i owns blocks[block_begin[i] .. block_begin[i + 1])
  StepOrders orders;                 // set by the runner

  int rows() const { return static_cast<int>(tokens.size()); }
  int logit_rows() const {
    int n = 0;
    for (const SeqSlice& s : slices) n += s.count - s.logits_from;
    return n;
  }
};

std::vector<std::byte> encode(const StepPlan& plan);
StepPlan decode_step_plan(std::span<const std::byte> bytes);  // throws Error on anything inconsistent

// Thrown instead of a step's logits: a rank was lost meanwhile, and the others go on without it. What the step was to
// write may be written in part.
struct StepUndone {};

// Runs steps on all ranks. The engine knows no more of the model than this.
class StepRunner {
 public:
  virtual ~StepRunner() = default;
  virtual int vocab() const = 0;
  // Logits (plan.logit_rows(), vocab), f32, row-major, in the order of the slices; valid until the next call. Throws
  // StepUndone; then the next step may follow.
  virtual std::span<const float> run(const StepPlan& plan) = 0;
  // Called every two seconds, on the thread that runs steps, while there are none to run.
  virtual void idle() {}
  // Changes while any rank goes on with a step, so that a long one is not taken for one that hangs; stays the same if
  // nobody counts. Any thread may ask.
  virtual int64_t progress() const { return 0; }
  // What every rank's time went into, by rank; empty if nobody counts. Any thread may ask.
  virtual std::vector<StepTotals> totals() const { return {}; }
};

}  // namespace kt
