#pragma once

#include <chrono>
#include <functional>
#include <mutex>
#include <vector>

#include "runtime/model/trunk.h"

namespace kt {

// Rank 0's StepRunner: sends the plan to the other trunk ranks, runs its own part if it is a trunk rank, and puts the
// logits of all parts of the vocabulary together.
class ClusterRunner final : public StepRunner {
 public:
  // `trunk` is null on a rank 0 that only schedules, `group` on one that is the whole trunk. The observers take part in
  // every step, in this order. `pulse`: see progress(); null: nobody counts. `on_loss` is called before a step throws
  // that other ranks cannot be reached; true: those that remain go on, and the step throws StepUndone.
  ClusterRunner(Transport& transport, const Topology& topology, const ModelConfig& config, Trunk* trunk, Group* group,
                std::vector<StepObserver*> observers = {}, std::function<int64_t()> pulse = nullptr,
                std::function<bool()> on_loss = nullptr);

  int vocab() const override { return config_.vocab; }
  std::span<const float> run(const StepPlan& plan) override;
  void idle() override;
  int64_t progress() const override { return pulse_ ? pulse_() : 0; }
  // Own ones up to the last step, those of others at most two seconds older.
  std::vector<StepTotals> totals() const override;
  std::vector<ClockReading> readings() const;  // likewise, with the layers
  // Seconds since each rank last answered, by rank. Any thread may ask.
  std::vector<double> heartbeat_ages() const;
  // Brings those of all ranks up to date; between steps, on the thread that runs them.
  void ask_clocks();
  // Lets the other ranks leave; nothing may run afterwards.
  void dismiss();

 private:
  std::span<const float> step(const StepPlan& asked);
  void note_own_clock();

  Transport& transport_;
  const Topology& topology_;
  const ModelConfig& config_;
  StepReport report();

  Trunk* trunk_;
  Group* group_;
  std::vector<Range> vocab_parts_;  // of the trunk ranks
  std::vector<int> vocab_widths_;
  std::vector<StepObserver*> observers_;
  std::function<int64_t()> pulse_;
  std::function<bool()> on_loss_;
  std::vector<float> logits_;
  std::vector<std::byte> room_;
  std::vector<ClockReading> readings_;                        // by rank
  std::vector<std::chrono::steady_clock::time_point> heard_;  // likewise: when they came
  mutable std::mutex readings_mutex_;
  std::chrono::steady_clock::time_point asked_;  // when other ranks last told theirs
};

// The life of a trunk rank that is not rank 0: steps as rank 0 sends them, until it is dismissed.
void serve_trunk(Trunk& trunk);

}  // namespace kt
