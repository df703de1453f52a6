#include "runtime/step/step_clock.h"

#include <cstring>

#include "runtime/base/error.h"
#include "runtime/step/step.h"

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
    a[p].sent_bytes += sign * b[p].sent_bytes;
    for (size_t i = 0; i < a[p].parts.size(); ++i) {
      a[p].parts[i].seconds += sign * b[p].parts[i].seconds;
      a[p].parts[i].bytes += sign * b[p].parts[i].bytes;
    }
  }
  return a;
}

StepTotals operator-(const StepTotals& later, const StepTotals& earlier) { return combine(later, earlier, -1); }
StepTotals operator+(const StepTotals& a, const StepTotals& b) { return combine(a, b, 1); }

static LayerTotals combine(LayerTotals a, const LayerTotals& b, int sign) {
  for (size_t layer = 0; layer < a.size(); ++layer)
    for (size_t p = 0; p < a[layer].size(); ++p) {
      a[layer][p].work.seconds += sign * b[layer][p].work.seconds;
      a[layer][p].work.bytes += sign * b[layer][p].work.bytes;
      a[layer][p].wait_s += sign * b[layer][p].wait_s;
    }
  return a;
}

LayerTotals operator-(const LayerTotals& later, const LayerTotals& earlier) { return combine(later, earlier, -1); }
LayerTotals operator+(const LayerTotals& a, const LayerTotals& b) { return combine(a, b, 1); }

std::vector<std::byte> encode(const ClockReading& reading) {
  const std::span<const std::byte> parts = std::as_bytes(std::span(reading.parts)),
                                   layers = std::as_bytes(std::span(reading.layers));
  std::vector<std::byte> bytes(parts.begin(), parts.end());
  bytes.insert(bytes.end(), layers.begin(), layers.end());
  return bytes;
}

ClockReading decode_clock_reading(std::span<const std::byte> bytes) {
  ClockReading reading;
  constexpr size_t kParts = sizeof reading.parts, kLayer = sizeof(LayerTotals::value_type);
  if (bytes.size() < kParts || (bytes.size() - kParts) % kLayer != 0)
    fail(kExitPeerLost, "step times: {} bytes, expected {} and a multiple of {}", bytes.size(), kParts, kLayer);
  reading.layers.resize((bytes.size() - kParts) / kLayer);
  std::memcpy(reading.parts.data(), bytes.data(), kParts);
  if (!reading.layers.empty()) std::memcpy(reading.layers.data(), bytes.data() + kParts, bytes.size() - kParts);
  return reading;
}

}  // namespace kt
