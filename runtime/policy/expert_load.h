#pragma once

#include <mutex>
#include <string>
#include <vector>

#include "runtime/placement/placement.h"
#include "runtime/step/step.h"

namespace kt {

// Who computes which part of the routed experts.
struct ExpertWorkers {
  struct Worker {
    int rank = 0;
    int columns = 0;  // of the experts' inner dimension
    int group = 0;    // of expert ranks: expert e is that of group e % groups
  };
  int layers = 0, experts = 0, hidden = 0, groups = 1;
  std::vector<Worker> banks;  // expert ranks: cold experts
  std::vector<Worker> trunk;  // hot experts, and all of a layerwise step
};

// Counts how the work on routed experts falls on the ranks, for /metrics. `hot` outlives it; to_prometheus may be
// called by any thread.
class ExpertLoad final : public StepObserver {
 public:
  ExpertLoad(ExpertWorkers workers, const HotSets* hot);

  void before(const StepPlan& plan, StepOrders& orders) override;
  void after(const StepPlan& plan, const StepReport& report) override;

  // `totals`: what the ranks' time went into, by rank.
  std::string to_prometheus(const std::vector<StepTotals>& totals) const;

 private:
  struct OfRank {
    std::vector<uint64_t> by_layer;  // (row, expert) pairs
    uint64_t pairs = 0;
    double flops = 0;
  };
  std::vector<OfRank> by_rank() const;
  void add(const ExpertWorkers::Worker& worker, int kind, std::vector<OfRank>& ranks) const;

  const ExpertWorkers workers_;
  const HotSets* hot_;
  mutable std::mutex mutex_;                  // guards what follows
  std::vector<std::vector<uint64_t>> pairs_;  // [groups + 1][layers]: of cold experts by group, at last of the trunk's
};

}  // namespace kt
