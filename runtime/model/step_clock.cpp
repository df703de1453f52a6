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

// a + sign * b
static StepTotals combine(StepTotals a, const StepTotals& b, int sign) {
  for (size_t p = 0; p < a.size(); ++p) {
    a[p].steps += sign * b[p].steps;
    a[p].rows += sign * b[p].rows;
    for (size_t i = 0; i < a[p].parts.size(); ++i) {
      a[p].parts[i].seconds += sign * b[p].parts[i].seconds;
      a[p].parts[i].bytes += sign * b[p].parts[i].bytes;
    }
  }
  return a;
}

StepTotals operator-(const StepTotals& later, const StepTotals& earlier) { return combine(later, earlier, -1); }
StepTotals operator+(const StepTotals& a, const StepTotals& b) { return combine(a, b, 1); }

std::span<const std::byte> encode(const StepTotals& totals) { return std::as_bytes(std::span(totals)); }

StepTotals decode_step_totals(std::span<const std::byte> bytes) {
  StepTotals totals;
  if (bytes.size() != sizeof totals)
    fail(kExitPeerLost, "step times: {} bytes instead of {}", bytes.size(), sizeof totals);
  std::memcpy(totals.data(), bytes.data(), sizeof totals);
  return totals;
}

}  // namespace kt
