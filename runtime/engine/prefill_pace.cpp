#include "runtime/engine/prefill_pace.h"

#include <algorithm>
#include <limits>

#include "runtime/step/step.h"

namespace kt {
namespace {

// Per step; the last ten make up nine tenths. The cost follows the length of contexts, which grows from step to step.
constexpr double kForgetting = 0.8;

}  // namespace

void PrefillCostFit::add(int tokens, double seconds) {
  const double x = tokens;
  for (double* sum : {&weight_, &x_, &y_, &xx_, &xy_}) *sum *= kForgetting;
  weight_ += 1.0;
  x_ += x;
  y_ += seconds;
  xx_ += x * x;
  xy_ += x * seconds;
}

PrefillCost PrefillCostFit::cost() const {
  if (tells_parts()) {
    const double token_s = (xy_ - x_ * y_ / weight_) / spread();
    const double step_s = (y_ - token_s * x_) / weight_;
    if (token_s > 0 && step_s >= 0) return {.step_s = step_s, .token_s = token_s};
  }
  return {.step_s = 0, .token_s = xy_ / xx_};
}

int tokens_within(const PrefillCost& cost, double seconds) {
  const double blocks = (seconds - cost.step_s) / (cost.token_s * kBlockTokens);
  constexpr int kMost = std::numeric_limits<int>::max() / kBlockTokens;
  if (!(blocks >= 1)) return 0;
  return kBlockTokens * (blocks < kMost ? static_cast<int>(blocks) : kMost);
}

int PrefillPace::prefill_tokens() const {
  if (max_stall_s_ <= 0) return std::numeric_limits<int>::max();
  int within = 0;
  if (!fit_.empty()) {
    const PrefillCost cost = fit_.cost();
    within = tokens_within(cost, std::max(max_stall_s_, step_costs_ * cost.step_s) - stalled_s_);
  }
  if (stalled_s_ > 0) return within;
  within = std::max(within, kBlockTokens);
  if (step_costs_ > 0 && !fit_.empty() && !fit_.tells_parts() && within == last_rows_)  // another size, to tell them
    within = within > kBlockTokens ? within / 2 / kBlockTokens * kBlockTokens : 2 * kBlockTokens;
  return within;
}

void PrefillPace::ran(int prompt_rows, int decode_rows, double seconds) {
  if (prompt_rows > 0) {
    fit_.add(prompt_rows, seconds);
    last_rows_ = prompt_rows;
  }
  if (decode_rows > 0) {
    stalled_s_ = 0;
  } else if (prompt_rows > 0) {
    stalled_s_ += seconds;
  }
}

}  // namespace kt
