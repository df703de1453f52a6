#pragma once

#include <chrono>
#include <map>
#include <mutex>
#include <optional>
#include <string>

#include "runtime/placement/hot_update.h"
#include "runtime/placement/prefill_path.h"
#include "runtime/step/step.h"

namespace kt {

struct ExpertPolicyConfig {
  std::vector<bool> moe;             // one for each layer
  int experts = 0;                   // of a MoE layer
  HotSets hot;                       // at start
  bool replicated = false;           // banks
  int64_t spare = 0;                 // hot experts that may come beside steps; 0: they come between two, all at once
  int sliced_below = 0;              // rows of a step: fewer are sliced; see StepOrders
  int prefill_threshold = 0;         // see PrefillPath
  int update_threshold = 0;          // prompt tokens of steps that re-choose the hot experts; 0: layerwise steps do
  int max_rows = 0;                  // of a step
  std::optional<UpdateRule> update;  // null: the hot experts stay
};

// What the policy has done, for /metrics.
struct ExpertStats {
  int64_t hot_experts = 0, experts = 0;  // of all layers
  uint64_t pairs = 0, hot_pairs = 0, late_pairs = 0, exchanges = 0;
  uint64_t moved_bytes = 0, streamed_bytes = 0;
  double weight = 0, late_weight = 0;
  std::map<std::pair<std::string, std::string>, uint64_t> prefill_steps;  // path, why -> steps with prompt tokens
  double hybrid_s = 0, layerwise_s = 0;                                   // last estimates
  int layerwise_from = 0;                                                 // see PrefillPath
  uint64_t sliced_steps = 0, whole_steps = 0;                             // of replicated banks
  int sliced_below = 0;                                                   // likewise
  bool replicated = false;
  std::vector<int> hot_per_layer;
};

// Which experts are hot now, and how often each is chosen, for /status/experts.
struct ExpertMap {
  std::vector<bool> moe;  // one for each layer
  HotSets hot;
  ExpertCounts use;      // moving averages; all 0 where nothing is counted
  bool counted = false;  // only where they choose what is hot
};

// Rank 0's policy for the routed experts: which are hot, when they change, and which path a prompt takes. Before every
// step it gives orders, after it looks at what came of them. Runs on the engine's thread; stats() from any.
class ExpertPolicy final : public StepObserver {
 public:
  explicit ExpertPolicy(ExpertPolicyConfig config);

  void before(const StepPlan& plan, StepOrders& orders) override;
  void after(const StepPlan& plan, const StepReport& report) override;

  // Before serving: brings the hot experts to the trunk ranks and, where the path is chosen by times, measures both
  // on prompts of some sizes that are thrown away. Runs steps; uses blocks from 0 and slot 0.
  void prepare(StepRunner& runner);

  // From now on no step is sliced.
  void take_whole_experts();

  // For measuring: prompts take this path until it is null again, and nothing is learnt or counted.
  void force(std::optional<Path> path);
  PrefillPath path() const;

  ExpertStats stats() const;
  ExpertMap map() const;
  const HotSets& hot_now() const { return hot_; }  // for other observers, on the same thread
  void restore(const ExpertCounts& averages);
  ExpertCounts averages() const;

 private:
  using Clock = std::chrono::steady_clock;
  void order_exchanges(StepOrders& orders);
  void measure_paths(StepRunner& runner, int rows);
  // Where the faster path is not the same.
  void measure_between(StepRunner& runner, int below, int above, int times);

  ExpertPolicyConfig config_;
  mutable std::mutex mutex_;  // guards all below
  HotUpdate update_;
  HotSets hot_;                   // in the step that is being taken
  std::vector<Exchange> coming_;  // beside the steps
  bool arrived_ = false;          // on all trunk ranks
  PrefillPath path_;
  PrefillPath::Choice choice_;
  std::optional<Path> forced_;
  std::vector<ExpertMove> first_moves_;
  Clock::time_point begin_;
  ExpertStats stats_;
};

}  // namespace kt
