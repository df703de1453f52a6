#include "runtime/engine/step_recorder.h"

#include "runtime/step/step.h"

namespace kt {

void StepRecorder::before(const StepPlan&, StepOrders& orders) {
  if (!recorder_.recording()) return;
  orders.counts = true;
  orders.ids |= recorder_.wants_ids();
}

// A step that began before the recording did has no counts and is not part of it.
void StepRecorder::after(const StepPlan& plan, const StepReport& report) {
  if (!recorder_.recording() || report.counts.empty()) return;
  if (recorder_.wants_ids() && report.ids.empty()) return;
  std::vector<RecordedSlice> slices;
  int decode_rows = 0;
  for (const SeqSlice& slice : plan.slices) {
    slices.push_back({slice.first, slice.count});
    if (slice.count == 1 && slice.first > 0) ++decode_rows;  // a prompt's last token looks the same
  }
  recorder_.record({.step = plan.step,
                    .counts = report.counts,
                    .hot = hot_,
                    .ids = report.ids,
                    .tokens = plan.tokens,
                    .slices = slices,
                    .decode_rows = decode_rows});
}

}  // namespace kt
