#include "runtime/placement/prefill_path.h"

#include <iterator>

namespace kt {

PrefillPath::Choice PrefillPath::choose(int rows) const {
  if (threshold_ == 0) return {Path::hybrid, "off"};
  if (rows == 0) return {Path::hybrid, "decode"};
  if (threshold_ > 0)
    return rows >= threshold_ ? Choice{Path::layerwise, "threshold"} : Choice{Path::hybrid, "below threshold"};
  Choice c{.path = Path::hybrid,
           .why = "faster",
           .hybrid_s = estimate(Path::hybrid, rows),
           .layerwise_s = estimate(Path::layerwise, rows)};
  if (c.layerwise_s < c.hybrid_s) c.path = Path::layerwise;
  return c;
}

int PrefillPath::layerwise_from(int most) const {
  int from = most + 1;
  while (from > 1 && choose(from - 1).path == Path::layerwise) --from;
  return from > most ? 0 : from;
}

void PrefillPath::measured(Path path, int rows, double seconds) {
  auto [at, is_new] = times_[static_cast<int>(path)].try_emplace(rows, seconds);
  if (!is_new) at->second += (seconds - at->second) / 4;
}

double PrefillPath::estimate(Path path, int rows) const {
  const auto& times = times_[static_cast<int>(path)];
  if (times.empty()) return 0.0;
  auto above = times.lower_bound(rows);
  if (above == times.end()) --above;  // beyond the last: its line goes on
  if (above == times.begin()) {
    if (rows <= above->first || times.size() == 1)
      return path == Path::hybrid ? above->second * rows / above->first : above->second;
    ++above;
  }
  const auto below = std::prev(above);
  const double slope = (above->second - below->second) / (above->first - below->first);
  return below->second + slope * (rows - below->first);
}

}  // namespace kt
