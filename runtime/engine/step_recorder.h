#pragma once

#include "runtime/recording/recorder.h"
#include "runtime/step/orders.h"

namespace kt {

// Gives a recorder every step that the ranks make, and orders from them what it needs; nothing while it is off.
class StepRecorder final : public StepObserver {
 public:
  // `hot`: the experts that are hot in the next step; null: none ever are. Both outlive this.
  StepRecorder(Recorder& recorder, const HotSets* hot) : recorder_(recorder), hot_(hot) {}

  void before(const StepPlan& plan, StepOrders& orders) override;
  void after(const StepPlan& plan, const StepReport& report) override;

 private:
  Recorder& recorder_;
  const HotSets* hot_;
};

}  // namespace kt
