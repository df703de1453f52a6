#include "runtime/serve/metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "runtime/serve/service.h"

namespace kt {
namespace {

// Label values may hold anything but bare quotes, backslashes and line ends.
std::string escape(std::string_view value) {
  std::string out;
  for (const char c : value) {
    if (c == '\\' || c == '"') out += '\\';
    if (c == '\n') {
      out += "\\n";
    } else {
      out += c;
    }
  }
  return out;
}

template <class... Args>
void line(std::string& out, fmt::format_string<Args...> format, Args&&... args) {
  fmt::format_to(std::back_inserter(out), format, std::forward<Args>(args)...);
  out += '\n';
}

void header(std::string& out, std::string_view name, std::string_view type, std::string_view help) {
  line(out, "# HELP ktmpi_{} {}", name, help);
  line(out, "# TYPE ktmpi_{} {}", name, type);
}

template <class T>
void single(std::string& out, std::string_view name, std::string_view type, std::string_view help, T value) {
  header(out, name, type, help);
  line(out, "ktmpi_{} {}", name, value);
}

}  // namespace

void Histogram::record(double seconds) {
  const auto bucket = std::lower_bound(kBounds.begin(), kBounds.end(), seconds) - kBounds.begin();
  ++counts_[static_cast<size_t>(bucket)];
  sum_ += seconds;
}

void Histogram::write(std::string_view name, std::string_view help, std::string& out) const {
  header(out, name, "histogram", help);
  uint64_t total = 0;
  for (size_t i = 0; i < kBounds.size(); ++i) {
    total += counts_[i];
    line(out, "ktmpi_{}_bucket{{le=\"{}\"}} {}", name, kBounds[i], total);
  }
  total += counts_.back();
  line(out, "ktmpi_{}_bucket{{le=\"+Inf\"}} {}", name, total);
  line(out, "ktmpi_{}_sum {}", name, sum_);
  line(out, "ktmpi_{}_count {}", name, total);
}

std::string to_prometheus(const Metrics& metrics, const EngineStats& stats, std::string_view version,
                          const ServedModel& model) {
  std::string out;
  header(out, "build_info", "gauge", "Version and served model; always 1");
  line(out, "ktmpi_build_info{{version=\"{}\",model_name=\"{}\"}} 1", escape(version), escape(model.name));
  header(out, "rank_info", "gauge", "Machine and role of each process; always 1");
  for (size_t r = 0; r < model.ranks.size(); ++r)
    line(out, "ktmpi_rank_info{{rank=\"{}\",node=\"{}\",role=\"{}\"}} 1", r, model.ranks[r].node,
         escape(model.ranks[r].role));
  single(out, "requests_running", "gauge", "Requests in the batch", stats.running);
  single(out, "requests_waiting", "gauge", "Requests in the queue", stats.waiting);
  single(out, "kv_cache_usage_ratio", "gauge", "Tokens in the KV cache over its capacity",
         stats.kv_tokens_total > 0 ? static_cast<double>(stats.kv_tokens_used) / stats.kv_tokens_total : 0.0);
  single(out, "kv_cache_tokens", "gauge", "Capacity of the KV cache in tokens", stats.kv_tokens_total);
  single(out, "generation_throughput", "gauge", "Tokens per second of recent decode steps",
         stats.last_generation_throughput);
  single(out, "step_age_seconds", "gauge", "Since the last finished step while work waits", stats.step_age_s);
  single(out, "http_connections", "gauge", "Open client connections", metrics.connections);
  single(out, "prompt_tokens_total", "counter", "Prompt tokens processed", stats.prompt_tokens_total);
  single(out, "generation_tokens_total", "counter", "Tokens generated", stats.generation_tokens_total);
  single(out, "cached_tokens_total", "counter", "Prompt tokens found in the prefix cache", stats.cached_tokens_total);
  single(out, "requests_aborted_total", "counter", "Requests ended by their client or at shutdown",
         stats.aborted_total);
  single(out, "requests_retracted_total", "counter", "Times a running request went back to the queue",
         stats.retracted_total);
  single(out, "http_slow_readers_dropped_total", "counter", "Streams whose client did not read",
         metrics.dropped_slow_readers);
  header(out, "requests_total", "counter", "Requests for text by HTTP status and finish reason");
  for (const auto& [labels, count] : metrics.requests)
    line(out, "ktmpi_requests_total{{code=\"{}\",finish_reason=\"{}\"}} {}", labels.first, labels.second, count);
  metrics.time_to_first_token.write("time_to_first_token_seconds", "From a request's arrival to its first token", out);
  metrics.inter_token_latency.write("inter_token_latency_seconds", "Between two tokens of one choice", out);
  metrics.e2e_latency.write("e2e_request_latency_seconds", "From a request's arrival to its last token", out);
  return out;
}

}  // namespace kt
