#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace kt {

// A measurement of `ktmpi bench scale`.
struct ScalePoint {
  int ranks = 1, base_ranks = 1;
  int batch = 1;       // of the job
  int base_batch = 1;  // of the base that it is compared with
  std::string layout, transport;
  std::string scaling;  // "strong" or "weak"

  bool is_base() const { return ranks == base_ranks; }
};
std::string to_text(const ScalePoint& point);
ScalePoint base_of(const ScalePoint& point);

struct ScaleAxes {
  std::vector<int> ranks, batches;  // ranks ascending
  std::vector<std::string> layouts, transports, scaling;
};
// By ranks, ascending. One rank has no layout and no transport: it is there once for each batch. In weak scaling the
// batch grows with the ranks.
std::vector<ScalePoint> scale_points(const ScaleAxes& axes);

// Lines of bench step on a job's standard output, among whatever else a launcher has put there.
std::vector<nlohmann::ordered_json> step_lines_of(const std::string& text);

// Why a job failed, from what it and its launcher said on stderr: ktmpi's own words, else the last lines. Begins with a
// line's end, each line being set in.
std::string reason_of(const std::string& text);

// A job of a point and the one of its base that went before it: a line of each phase.
struct Round {
  std::vector<nlohmann::ordered_json> base, point;
};
// What the rounds of a point come to, a line for each phase. Speedup is that of tokens per second, the median of the
// rounds' own, so that what makes the whole machine slower for a while cancels; efficiency is the speedup for each of
// the ranks that the base's became.
std::vector<nlohmann::ordered_json> lines_of(const ScalePoint& point, const std::vector<Round>& rounds);

double rounded_ms(double x);  // to a ten-thousandth

}  // namespace kt
