#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "runtime/placement/placement.h"

namespace kt {

enum class UpdateRule : uint8_t {
  average,  // by a moving average of all steps, when an exchange pays for its copy
  chunk,    // KTransformers': after a qualifying prefill, each layer's most chosen experts of that step
  shuffle,  // one random exchange in each layer before every step; for tests
};
UpdateRule update_rule(std::string_view name);  // throws Error(kExitUsage)

struct Exchange {
  int layer = 0;
  int32_t in = -1, out = -1;
};
void apply(const Exchange& exchange, HotSets& hot);

// Re-chooses which experts are hot from what the router chooses. The number of hot experts stays; with the rule
// `average` layers lend each other slots: what counts is how often a slot's expert is chosen, in whatever layer.
// Pure: knows no step, no clock and no rank.
class HotUpdate {
 public:
  // Scores halve in this many tokens.
  static constexpr double kHalfLifeTokens = 8192;
  // An exchange copies an expert once; each later use of a hot expert saves the expert ranks one reading of it. So the
  // newcomer must lead by this many uses of the average's window, and by this factor, or sets of equals would dance.
  static constexpr double kLeadUses = 4, kLeadFactor = 1.1;

  HotUpdate(UpdateRule rule, HotSets hot, int experts);

  // Averages of an earlier run; throws Error(kExitUsage) when the shape is another.
  void restore(const ExpertCounts& averages);
  ExpertCounts averages() const;

  // counts [layers, experts] of a step of `rows` tokens; `qualifies`: a prefill that may change the set.
  void observe(std::span<const int32_t> counts, int rows, bool qualifies);
  // The next exchanges, at most `limit`, most useful first. They count as done.
  std::vector<Exchange> take(size_t limit);

  const HotSets& hot() const { return hot_; }  // with all exchanges taken

 private:
  double& score(int layer, int32_t e) { return scores_[static_cast<size_t>(layer) * experts_ + e]; }
  void choose_by_average();
  void choose_by_chunk(std::span<const int32_t> counts);
  void shuffle();

  UpdateRule rule_;
  HotSets hot_;
  int experts_;
  std::vector<double> scores_;     // [layers, experts]
  std::vector<Exchange> planned_;  // in the order in which they are to happen
  uint64_t random_ = 42;
};

}  // namespace kt
