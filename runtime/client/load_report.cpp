#include "runtime/client/load_report.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

namespace kt {
namespace {

using Json = nlohmann::ordered_json;

void add_statistics(Json& report, const std::string& name, std::vector<double> seconds) {
  std::sort(seconds.begin(), seconds.end());
  const auto add = [&](const char* statistic, auto of_sorted) {
    Json& field = report[statistic + ("_" + name) + "_ms"];
    if (!seconds.empty()) field = 1000 * of_sorted();
  };
  const double count = static_cast<double>(seconds.size());
  const auto mean = [&] { return std::accumulate(seconds.begin(), seconds.end(), 0.0) / count; };
  add("mean", mean);
  add("median", [&] { return percentile(seconds, 0.5); });
  add("std", [&] {
    const double center = mean();
    double squares = 0;
    for (const double value : seconds) squares += (value - center) * (value - center);
    return std::sqrt(squares / count);
  });
  add("p99", [&] { return percentile(seconds, 0.99); });
}

}  // namespace

double percentile(const std::vector<double>& sorted, double share) {
  const double place = share * static_cast<double>(sorted.size() - 1);
  const size_t below = static_cast<size_t>(place), above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (place - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

Json load_report(const LoadResult& result) {
  std::vector<double> first, per_token, gaps, whole;
  long prompt_tokens = 0, output_tokens = 0;
  int completed = 0;
  for (const LoadRecord& record : result.records) {
    if (!record.error.empty()) continue;
    ++completed;
    prompt_tokens += record.prompt_tokens;
    output_tokens += record.output_tokens;
    first.push_back(record.first - record.sent);
    whole.push_back(record.last - record.sent);
    gaps.insert(gaps.end(), record.gaps.begin(), record.gaps.end());
    if (record.output_tokens > 1) per_token.push_back((record.last - record.first) / (record.output_tokens - 1));
  }

  Json report;
  report["duration"] = result.duration;
  report["completed"] = completed;
  report["failed"] = static_cast<int>(result.records.size()) - completed;
  report["total_input_tokens"] = prompt_tokens;
  report["total_output_tokens"] = output_tokens;
  const auto per_second = [&](long count) { return static_cast<double>(count) / result.duration; };
  report["request_throughput"] = per_second(completed);
  report["output_throughput"] = per_second(output_tokens);
  report["total_token_throughput"] = per_second(prompt_tokens + output_tokens);
  report["max_concurrent_requests"] = result.most_concurrent;
  add_statistics(report, "ttft", std::move(first));
  add_statistics(report, "tpot", std::move(per_token));
  add_statistics(report, "itl", std::move(gaps));
  add_statistics(report, "e2el", std::move(whole));
  return report;
}

}  // namespace kt
