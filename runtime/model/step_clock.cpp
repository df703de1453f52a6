#include "runtime/model/step_clock.h"

#include <cstring>

#include "runtime/base/error.h"
#include "runtime/model/step.h"

namespace kt {

StepPartName name_of(StepPart part) {
  switch (part) {
    case StepPart::attention: return {"mixer", "attention"};
    case StepPart::mla: return {"mixer", "mla"};
    case StepPart::delta_net: return {"mixer", "delta_net"};
    case StepPart::dense: return {"dense", "dense"};
    case StepPart::router: return {"router", "moe"};
    case StepPart::shared: return {"shared", "moe"};
    case StepPart::experts: return {"experts", "moe"};
    case StepPart::wait: return {"wait", "moe"};
    case StepPart::reduce: return {"reduce", ""};
    case StepPart::head: return {"head", ""};
    case StepPart::other: break;
  }
  return {"other", ""};
}

std::string_view name_of(Phase phase) { return phase == Phase::prefill ? "prefill" : "decode"; }

Phase phase_of(const StepPlan& plan) {
  return plan.tokens.size() == plan.slices.size() ? Phase::decode : Phase::prefill;
}

StepTotals operator-(const StepTotals& later, const StepTotals& earlier) {
  StepTotals difference = later;
  for (size_t p = 0; p < difference.size(); ++p) {
    difference[p].steps -= earlier[p].steps;
    difference[p].rows -= earlier[p].rows;
    for (size_t i = 0; i < difference[p].parts.size(); ++i) {
      difference[p].parts[i].seconds -= earlier[p].parts[i].seconds;
      difference[p].parts[i].bytes -= earlier[p].parts[i].bytes;
    }
  }
  return difference;
}

std::span<const std::byte> encode(const StepTotals& totals) { return std::as_bytes(std::span(totals)); }

StepTotals decode_step_totals(std::span<const std::byte> bytes) {
  StepTotals totals;
  if (bytes.size() != sizeof totals)
    fail(kExitPeerLost, "step times: {} bytes instead of {}", bytes.size(), sizeof totals);
  std::memcpy(totals.data(), bytes.data(), sizeof totals);
  return totals;
}

}  // namespace kt
