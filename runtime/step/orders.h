#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace kt {

struct StepPlan;

// Between two steps the trunk ranks give one hot expert up and take another in its place; -1: none.
struct ExpertMove {
  int32_t layer = 0, in = -1, out = -1;
};

// What rank 0 wants done with the routed experts in one step. None of it changes a bit of the step's logits, unless hot
// experts have weights of their own (hot-weights).
struct StepOrders {
  bool counts = false;            // report how often each expert was chosen
  bool ids = false;               // report which experts each row chose
  bool layerwise = false;         // cold experts come to the rows instead of rows to the experts
  bool sliced = false;            // every group of expert ranks computes a part of all experts (replicated banks)
  std::vector<ExpertMove> moves;  // before the step
  std::vector<ExpertMove> bring;  // beside this step and the next ones, without a change yet
  bool take_over = false;         // what was brought happens now, before the step
};

// What a step did with the routed experts, as the first trunk rank saw it: all of them route alike.
struct StepReport {
  std::vector<int32_t> counts;                       // [layers, experts]; empty unless ordered; dense layers are zero
  std::vector<int32_t> ids;                          // [layers, rows, top_k]; empty unless ordered; dense layers are -1
  int64_t pairs = 0, hot_pairs = 0, late_pairs = 0;  // (row, expert) pairs: all, computed here, deferred
  double weight = 0.0, late_weight = 0.0;            // their routing weights
  int64_t streamed_bytes = 0, moved_bytes = 0;       // of experts that came to this rank for the step, and to stay
  bool arrived = false;                              // what was to be brought is on all trunk ranks
};
std::vector<std::byte> encode(const StepReport& report);
StepReport decode_step_report(
    std::span<const std::byte> bytes);  // throws Error(kExitPeerLost) on anything inconsistent

// Takes part in every step on rank 0: says what it wants before, and sees what came of it.
class StepObserver {
 public:
  virtual ~StepObserver() = default;
  virtual void before(const StepPlan&, StepOrders&) {}
  virtual void after(const StepPlan&, const StepReport&) {}
};

}  // namespace kt
