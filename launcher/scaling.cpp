#include "launcher/scaling.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "runtime/base/error.h"
#include "runtime/config/words.h"

namespace kt {
namespace {

using Json = nlohmann::ordered_json;

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  const size_t half = v.size() / 2;
  return v.size() % 2 ? v[half] : (v[half - 1] + v[half]) / 2;
}

// Of a whole prompt, or of a decode step.
double ms_of(const Json& line) { return line.at(line.at("phase") == "prefill" ? "ttft_ms" : "ms_per_token"); }

const Json& line_of(const std::vector<Json>& lines, const std::string& phase) {
  const auto found = std::find_if(lines.begin(), lines.end(), [&](const Json& l) { return l.at("phase") == phase; });
  if (found == lines.end()) fail(kExitTryAgain, "bench scale: a job gave no line of {}", phase);
  return *found;
}

// What the ranks of the job gave each other in a prompt or step: rows and sums.
double sent_bytes(const Json& line) {
  double sum = 0;
  for (const Json& rank : line.at("ranks")) sum += rank.at("sent_bytes").get<double>();
  return sum;
}

}  // namespace

std::string to_text(const ScalePoint& p) {
  std::string text = fmt::format("{} rank{}", p.ranks, p.ranks == 1 ? "" : "s");
  if (p.ranks > 1) text += fmt::format(", layout {}, transport {}", p.layout, p.transport);
  return text + fmt::format(", batch {} ({})", p.batch, p.scaling);
}

ScalePoint base_of(const ScalePoint& p) {
  ScalePoint base = p;
  base.ranks = p.base_ranks, base.batch = p.base_batch;
  return base;
}

std::vector<ScalePoint> scale_points(const ScaleAxes& axes) {
  std::vector<ScalePoint> points;
  for (const int ranks : axes.ranks)
    for (const std::string& scaling : axes.scaling)
      for (const std::string& layout : axes.layouts)
        for (const std::string& transport : axes.transports)
          for (const int batch : axes.batches) {
            const bool first = layout == axes.layouts.front() && transport == axes.transports.front();
            const bool same = ranks == axes.ranks.front() && scaling != axes.scaling.front();  // for both kinds
            if ((ranks == 1 && !first) || same) continue;
            const int base = axes.ranks.front();
            const int grown = scaling == "weak" ? std::max(1, batch * ranks / base) : batch;
            points.push_back({ranks, base, grown, batch, layout, transport, scaling});
          }
  return points;
}

std::vector<Json> step_lines_of(const std::string& text) {
  std::vector<Json> lines;
  for (const std::string_view word : split(text, '\n')) {
    Json line = Json::parse(word, nullptr, false);
    if (line.is_object() && line.contains("phase")) lines.push_back(std::move(line));
  }
  return lines;
}

std::string reason_of(const std::string& text) {
  constexpr size_t kMost = 8;
  const std::vector<std::string_view> lines = split(text, '\n');
  size_t begin = lines.size() > kMost ? lines.size() - kMost : 0;
  for (size_t i = lines.size(); i-- > 0;)
    if (lines[i].starts_with("ktmpi: ")) begin = i;
  std::string reason;
  for (size_t i = begin; i < std::min(lines.size(), begin + kMost); ++i) {
    if (i > begin && lines[i].starts_with("---")) break;  // mpirun goes on
    reason += "\n  " + std::string(lines[i]);
  }
  return reason;
}

std::vector<Json> lines_of(const ScalePoint& p, const std::vector<Round>& rounds) {
  std::vector<Json> lines;
  for (const char* phase : {"decode", "prefill"}) {
    std::vector<double> ms, base_ms, speedups;
    for (const Round& r : rounds) {
      ms.push_back(ms_of(line_of(r.point, phase)));
      base_ms.push_back(ms_of(line_of(r.base, phase)));
      speedups.push_back(base_ms.back() / ms.back() * p.batch / p.base_batch);
    }
    const Json& one = line_of(rounds.front().point, phase);
    const bool prefill = std::string_view(phase) == "prefill";
    const int tokens = one.at(prefill ? "prompt" : "context");
    const double typical = median(ms), speedup = median(speedups);
    Json line = {{"phase", phase}, {prefill ? "prompt" : "context", tokens}, {"batch", p.batch}, {"ranks", p.ranks}};
    for (const char* same : {"nodes", "node_of", "layout", "transport"}) line[same] = one.at(same);
    line.update(Json{{"scaling", p.scaling},
                     {"ms_median", rounded_ms(typical)},
                     {"ms_min", rounded_ms(*std::min_element(ms.begin(), ms.end()))},
                     {"ms_max", rounded_ms(*std::max_element(ms.begin(), ms.end()))},
                     {"tokens_per_s", rounded_ms((prefill ? tokens : 1) * p.batch / typical * 1e3)},
                     {"base_ranks", p.base_ranks},
                     {"base_ms", rounded_ms(median(base_ms))},
                     {"speedup", rounded_ms(speedup)},
                     {"efficiency", rounded_ms(speedup * p.base_ranks / p.ranks)},
                     {"rounds", rounds.size()},
                     {"sent_bytes", sent_bytes(one)}});
    for (const char* same : {"model", "layers", "experts", "method", "threads", "kernels"}) line[same] = one.at(same);
    lines.push_back(std::move(line));
  }
  return lines;
}

double rounded_ms(double x) { return std::round(x * 1e4) / 1e4; }

}  // namespace kt
