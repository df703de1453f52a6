#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace kt {

struct StepPlan;

// What a rank's time in steps goes into.
enum class StepPart : uint8_t {
  attention,  // the three mixers: projections, cache and all
  mla,
  delta_net,
  dense,
  router,   // and sending the rows
  shared,   // expert
  experts,  // that are routed, computed on this rank
  wait,     // a trunk rank for expert ranks; an expert rank for rows
  reduce,   // sums over the trunk ranks, waiting for them included
  head,
  other,  // embedding, norms, adding
};
inline constexpr int kStepParts = static_cast<int>(StepPart::other) + 1;

// How a part is shown: what it is, and the kind of layer or mixer that it belongs to ("": to none alone).
struct StepPartName {
  std::string_view part, layer;
};
StepPartName name_of(StepPart part);

// A step in which every sequence has one token is decode; what has more computes a prompt.
enum class Phase : uint8_t { prefill, decode };
inline constexpr int kPhases = 2;
std::string_view name_of(Phase phase);
Phase phase_of(const StepPlan& plan);

// Totals since the rank started; they only grow.
struct PartTotal {
  double seconds = 0.0;
  double bytes = 0.0;  // of weights and cached rows touched, each counted once a step: the least that memory must give
};
struct PhaseTotals {
  int64_t steps = 0, rows = 0;
  int64_t sent_bytes = 0;  // between trunk and expert ranks: rows and sums
  std::array<PartTotal, kStepParts> parts;

  PartTotal& operator[](StepPart part) { return parts[static_cast<size_t>(part)]; }
  const PartTotal& operator[](StepPart part) const { return parts[static_cast<size_t>(part)]; }
};
using StepTotals = std::array<PhaseTotals, kPhases>;
StepTotals operator-(const StepTotals& later, const StepTotals& earlier);
StepTotals operator+(const StepTotals& a, const StepTotals& b);

// Of each layer all parts together, waiting for other ranks (wait, reduce) apart.
struct LayerTotal {
  PartTotal work;
  double wait_s = 0.0;
};
using LayerTotals = std::vector<std::array<LayerTotal, kPhases>>;
LayerTotals operator-(const LayerTotals& later, const LayerTotals& earlier);  // of as many layers
LayerTotals operator+(const LayerTotals& a, const LayerTotals& b);

// All that a rank's clock has counted.
struct ClockReading {
  StepTotals parts = {};
  LayerTotals layers;
};
std::vector<std::byte> encode(const ClockReading& reading);
ClockReading decode_clock_reading(std::span<const std::byte> bytes);  // throws Error(kExitPeerLost)

// Splits a rank's time over the parts: one look at the clock at the end of each, about 30 ns.
class StepClock {
 public:
  StepClock() = default;
  explicit StepClock(size_t layers) { reading_.layers.resize(layers); }

  // What was before belongs to no step.
  void begin(Phase phase, int rows) {
    phase_ = phase;
    layer_ = -1;
    ++reading_.parts[index()].steps;
    reading_.parts[index()].rows += rows;
    last_ = Clock::now();
  }
  // What follows is this layer's; -1: no layer's.
  void enter(int layer) { layer_ = layer; }
  // The time since the last lap was spent on this part, for which this rank touched so many bytes.
  void lap(StepPart part, double bytes = 0.0) {
    const Clock::time_point time = Clock::now();
    const double seconds = std::chrono::duration<double>(time - last_).count();
    last_ = time;
    PartTotal& total = reading_.parts[index()][part];
    total.seconds += seconds;
    total.bytes += bytes;
    if (layer_ < 0) return;
    LayerTotal& layer = reading_.layers[static_cast<size_t>(layer_)][index()];
    layer.work.bytes += bytes;
    (part == StepPart::wait || part == StepPart::reduce ? layer.wait_s : layer.work.seconds) += seconds;
  }
  void sent(size_t bytes) { reading_.parts[index()].sent_bytes += static_cast<int64_t>(bytes); }
  Phase phase() const { return phase_; }
  const StepTotals& totals() const { return reading_.parts; }
  const ClockReading& reading() const { return reading_; }

 private:
  using Clock = std::chrono::steady_clock;

  size_t index() const { return static_cast<size_t>(phase_); }

  ClockReading reading_;
  int layer_ = -1;
  Phase phase_ = Phase::prefill;
  Clock::time_point last_;
};

}  // namespace kt
