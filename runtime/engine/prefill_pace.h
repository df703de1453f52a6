#pragma once

namespace kt {

// What a step with prompt tokens costs: a part for the step, in which most weights are read whatever the number of
// tokens, and a part for each token.
struct PrefillCost {
  double step_s = 0, token_s = 0;
};

// Fits the cost to measured steps, the newest weighing most: least squares over (tokens, seconds). Steps of one size
// only, or that do not look like the model, give a cost by the token.
class PrefillCostFit {
 public:
  void add(int tokens, double seconds);
  bool empty() const { return weight_ == 0; }
  bool tells_parts() const { return spread() > 1e-3 * xx_; }  // the steps were not all of one size
  PrefillCost cost() const;                                   // not empty

 private:
  double spread() const { return xx_ - x_ * x_ / weight_; }  // weighted variance of the sizes

  double weight_ = 0, x_ = 0, y_ = 0, xx_ = 0, xy_ = 0;  // decayed sums
};

// The most prompt tokens, a multiple of kBlockTokens, that a step of that cost takes in the time; 0: not even a block.
int tokens_within(const PrefillCost& cost, double seconds);

// Keeps prefill from holding up running answers for longer than a bound: the time from one token of an answer to the
// next that steps with prompt tokens take. A single block is always let through, however long it takes: without it a
// prompt would wait for the end of all answers. The caller tells the time; one thread.
//
// Where a step costs much before its first token, as where it reads hundreds of gigabytes of experts, short chunks
// would make prompts several times slower: there the bound is `step_costs` times that cost, if that is more. To know
// the cost takes steps of several sizes: now and then one is shorter than it could be.
class PrefillPace {
 public:
  explicit PrefillPace(double max_stall_s, double step_costs = 0)  // max_stall_s 0: no bound
      : max_stall_s_(max_stall_s), step_costs_(step_costs) {}

  // For the next step while answers run.
  int prefill_tokens() const;
  // A step is over. One with decode rows takes all running answers a token further.
  void ran(int prompt_rows, int decode_rows, double seconds);

 private:
  double max_stall_s_, step_costs_;
  double stalled_s_ = 0;  // since answers got their last token
  int last_rows_ = 0;     // of prompts, in the last step that had any
  PrefillCostFit fit_;
};

}  // namespace kt
