#include "runtime/model/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace kt {
namespace {

// The (fractional) pair that turns `turns` times within the original context.
double pair_of(const RopeSpec& rope, double turns) {
  return rope.dims * std::log(rope.original_context / (2 * std::numbers::pi * turns)) / (2 * std::log(rope.theta));
}

}  // namespace

std::vector<double> rope_frequencies(const RopeSpec& rope) {
  std::vector<double> frequency(static_cast<size_t>(rope.dims / 2));
  for (int i = 0; i < rope.dims / 2; ++i) frequency[i] = std::pow(rope.theta, -2.0 * i / rope.dims);
  if (rope.yarn_factor == 1.0) return frequency;

  // Kept up to `low`, divided by the factor from `high` on, a ramp between.
  const double low = std::max(std::floor(pair_of(rope, rope.beta_fast)), 0.0);
  double high = std::min(std::ceil(pair_of(rope, rope.beta_slow)), rope.dims - 1.0);
  if (low == high) high += 0.001;
  for (int i = 0; i < rope.dims / 2; ++i) {
    const double ramp = std::clamp((i - low) / (high - low), 0.0, 1.0);
    frequency[i] *= (1.0 - ramp) + ramp / rope.yarn_factor;
  }
  return frequency;
}

}  // namespace kt
