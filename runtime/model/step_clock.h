#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

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
std::span<const std::byte> encode(const StepTotals& totals);      // a view, as memory has it
StepTotals decode_step_totals(std::span<const std::byte> bytes);  // throws Error(kExitPeerLost)

// Splits a rank's time over the parts: one look at the clock at the end of each, about 30 ns.
class StepClock {
 public:
  // What was before belongs to no step.
  void begin(Phase phase, int rows) {
    phase_ = phase;
    ++totals_[index()].steps;
    totals_[index()].rows += rows;
    last_ = Clock::now();
  }
  // The time since the last lap was spent on this part, for which this rank touched so many bytes.
  void lap(StepPart part, double bytes = 0.0) {
    const Clock::time_point time = Clock::now();
    PartTotal& total = totals_[index()][part];
    total.seconds += std::chrono::duration<double>(time - last_).count();
    total.bytes += bytes;
    last_ = time;
    std::atomic_ref(laps_).fetch_add(1, std::memory_order_relaxed);
  }
  void sent(size_t bytes) { totals_[index()].sent_bytes += static_cast<int64_t>(bytes); }
  // Grows while a step goes on; any thread may ask.
  int64_t laps() const { return std::atomic_ref(laps_).load(std::memory_order_relaxed); }
  Phase phase() const { return phase_; }
  const StepTotals& totals() const { return totals_; }

 private:
  using Clock = std::chrono::steady_clock;

  size_t index() const { return static_cast<size_t>(phase_); }

  StepTotals totals_ = {};
  mutable int64_t laps_ = 0;
  Phase phase_ = Phase::prefill;
  Clock::time_point last_;
};

}  // namespace kt
