#include "runtime/plan/calibration.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "runtime/base/error.h"

namespace kt {
namespace {

using Json = nlohmann::ordered_json;

// What is searched: the logarithm of each factor.
using Point = std::array<double, 5>;
constexpr CostFactors kUsual{.memory = 0.7, .compute = 0.5, .apart = 0.3, .layer_us = 20, .message_us = 10};
constexpr double kPull = 1e-4;                          // of a factor of ten, against a mean square error
constexpr double kLeast = 1e-3, kFirst = 1.0, kTo = 7;  // steps of the search; how far from the usual it may go

Point logarithms(const CostFactors& f) {
  return {std::log(f.memory), std::log(f.compute), std::log(f.apart), std::log(f.layer_us), std::log(f.message_us)};
}
CostFactors factors_of(const Point& p) {
  return {std::exp(p[0]), std::exp(p[1]), std::min(1.0, std::exp(p[2])), std::exp(p[3]), std::exp(p[4])};
}

struct Example {
  std::vector<PassWork> work;
  const Twin* twin;
  double ms;
};

double loss(const std::vector<Example>& examples, const Point& p) {
  const CostFactors factors = factors_of(p);
  const Point usual = logarithms(kUsual);
  double sum = 0, pull = 0;
  for (const Example& e : examples) {
    const double off = std::log(1e3 * time_of(e.work, *e.twin, factors).total / e.ms);
    sum += off * off;
  }
  for (size_t i = 0; i < p.size(); ++i) pull += std::pow((p[i] - usual[i]) / std::log(10.0), 2);
  return sum / static_cast<double>(examples.size()) + kPull * pull;
}

template <class T>
T member(const Json& line, std::initializer_list<const char*> names, const std::string& where) {
  for (const char* name : names)
    if (const auto found = line.find(name); found != line.end()) {
      if constexpr (std::is_same_v<T, std::string>) {
        if (found->is_string()) return found->template get<T>();
      } else if (found->is_number() && found->template get<double>() > 0) {
        return found->template get<T>();
      }
      fail(kExitUsage, "{}: {}: expected a {}, found {}", where, name,
           std::is_same_v<T, std::string> ? "string" : "number above 0", found->dump());
    }
  fail(kExitUsage, "{}: expected a line of bench step or bench scale, with {}", where, *names.begin());
}

// The machine of each rank. Lines that do not say it are of ranks that a launcher put anywhere.
std::vector<int> node_of(const Json& line, int ranks, int nodes, const std::string& where) {
  const auto found = line.find("node_of");
  if (found == line.end()) return {};
  std::vector<int> list;
  if (found->is_array())
    for (const Json& node : *found)
      if (node.is_number_integer() && node >= 0 && node < nodes) list.push_back(node);
  if (static_cast<int>(list.size()) != ranks || list.size() != found->size())
    fail(kExitUsage, "{}: node_of: expected a machine from 0 to {} for each of {} ranks, found {}", where, nodes - 1,
         ranks, found->dump());
  return list;
}

}  // namespace

std::optional<MeasuredStep> measured_step(const Json& line, const std::string& where) {
  if (!line.is_object()) fail(kExitUsage, "{}: expected a JSON object", where);
  if (!line.contains("phase")) return std::nullopt;
  MeasuredStep step{.where = where};
  const std::string phase = member<std::string>(line, {"phase"}, where);
  if (phase != "prefill" && phase != "decode")
    fail(kExitUsage, "{}: phase: expected prefill or decode, found '{}'", where, phase);
  step.prefill = phase == "prefill";
  step.tokens = member<int>(line, {"prompt", "context"}, where);
  step.batch = member<int>(line, {"batch"}, where);
  step.ms = member<double>(line, {"ms_median", "ttft_ms", "ms_per_token"}, where);
  step.variant = {.nodes = member<int>(line, {"nodes"}, where),
                  .world = line.contains("ranks_total") ? member<int>(line, {"ranks_total"}, where)
                                                        : member<int>(line, {"ranks"}, where),
                  .layout = member<std::string>(line, {"layout"}, where),
                  .layers = member<int>(line, {"layers"}, where),
                  .experts = member<int>(line, {"experts"}, where)};
  step.variant.node_of = node_of(line, *step.variant.world, step.variant.nodes, where);
  return step;
}

std::vector<MeasuredStep> read_measured(const std::filesystem::path& file) {
  std::ifstream in(file);
  if (!in) fail(kExitUsage, "{}: this file cannot be read", file.string());
  std::vector<MeasuredStep> steps;
  int number = 0;
  for (std::string text; std::getline(in, text);) {
    ++number;
    if (text.find_first_not_of(" \t\r") == std::string::npos) continue;
    const std::string where = fmt::format("{}:{}", file.string(), number);
    const Json line = Json::parse(text, nullptr, false);
    if (line.is_discarded()) fail(kExitUsage, "{}: this line is not JSON", where);
    if (const std::optional<MeasuredStep> step = measured_step(line, where)) steps.push_back(*step);
  }
  if (steps.empty())
    fail(kExitUsage, "{}: expected lines of ktmpi bench step or bench scale, found none", file.string());
  return steps;
}

std::vector<PassWork> work_of(const MeasuredStep& step, const Twin& twin) {
  return step.prefill ? prefill_work(twin, step.tokens, step.batch) : decode_work(twin, step.tokens, step.batch);
}

// One factor after the other is moved up or down as long as that helps, by steps that become smaller.
CostFactors calibrate(std::span<const MeasuredStep> steps, Twins& twins) {
  std::vector<Example> examples;
  for (const MeasuredStep& s : steps) {
    const Twin& twin = twins.of(s.variant);
    examples.push_back({work_of(s, twin), &twin, s.ms});
  }
  const Point usual = logarithms(kUsual);
  Point best = usual;
  double least = loss(examples, best);
  for (double step = kFirst; step > kLeast;) {
    bool better = false;
    for (size_t i = 0; i < best.size(); ++i)
      for (const double by : {step, -step}) {
        Point next = best;
        next[i] = std::clamp(next[i] + by, usual[i] - kTo, usual[i] + kTo);
        if (const double l = loss(examples, next); l < least) best = next, least = l, better = true;
      }
    if (!better) step /= 2;
  }
  return factors_of(best);
}

std::vector<Prediction> predict(std::span<const MeasuredStep> steps, Twins& twins, const CostFactors& factors) {
  std::vector<Prediction> result;
  for (const MeasuredStep& s : steps) {
    const Twin& twin = twins.of(s.variant);
    result.push_back({s, 1e3 * time_of(work_of(s, twin), twin, factors).total});
  }
  return result;
}

Errors errors_of(std::span<const Prediction> predictions) {
  std::vector<double> all;
  for (const Prediction& p : predictions) all.push_back(std::abs(p.error()));
  if (all.empty()) return {};
  std::sort(all.begin(), all.end());
  return {.median = all[all.size() / 2], .max = all.back(), .points = static_cast<int>(all.size())};
}

}  // namespace kt
