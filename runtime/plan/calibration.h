#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/plan/twins.h"

namespace kt {

// A prompt or a decode step that was timed: a line of `ktmpi bench step` or `ktmpi bench scale`.
struct MeasuredStep {
  std::string where;  // "FILE:LINE"
  bool prefill = false;
  int tokens = 0;  // of a prompt, or of the context
  int batch = 1;
  Variant variant;
  double ms = 0;
};
// Nothing for lines of something else: those that say the machine. Throws Error(kExitUsage) for a line of which
// something is missing.
std::optional<MeasuredStep> measured_step(const nlohmann::ordered_json& line, const std::string& where);
// All of a file, at least one. Throws Error(kExitUsage) with file and line.
std::vector<MeasuredStep> read_measured(const std::filesystem::path& file);

std::vector<PassWork> work_of(const MeasuredStep& step, const Twin& twin);

// The factors with which the model comes closest to what was measured: the least mean square of log(predicted /
// measured), with a slight pull towards usual values, so that what no line tells stays there.
CostFactors calibrate(std::span<const MeasuredStep> steps, Twins& twins);

struct Prediction {
  MeasuredStep step;
  double predicted_ms = 0;
  double error() const { return predicted_ms / step.ms - 1; }
};
std::vector<Prediction> predict(std::span<const MeasuredStep> steps, Twins& twins, const CostFactors& factors);

struct Errors {
  double median = 0, max = 0;  // of their absolute values
  int points = 0;
};
Errors errors_of(std::span<const Prediction> predictions);

}  // namespace kt
