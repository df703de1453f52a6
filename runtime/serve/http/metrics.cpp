#include "runtime/serve/http/metrics.h"

#include <fmt/format.h>

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

// One series of a histogram; `labels` are `name="value",` or nothing.
void series(std::string& out, std::string_view name, std::string_view labels, const Histogram& histogram) {
  uint64_t total = 0;
  for (size_t i = 0; i < Histogram::kBounds.size(); ++i) {
    total += histogram.count(i);
    line(out, "ktmpi_{}_bucket{{{}le=\"{}\"}} {}", name, labels, Histogram::kBounds[i], total);
  }
  total += histogram.count(Histogram::kBounds.size());
  line(out, "ktmpi_{}_bucket{{{}le=\"+Inf\"}} {}", name, labels, total);
  const std::string_view bare = labels.substr(0, labels.find_last_of(','));
  const std::string braces = bare.empty() ? "" : fmt::format("{{{}}}", bare);
  line(out, "ktmpi_{}_sum{} {}", name, braces, histogram.sum());
  line(out, "ktmpi_{}_count{} {}", name, braces, total);
}

void single(std::string& out, std::string_view name, std::string_view help, const Histogram& histogram) {
  header(out, name, "histogram", help);
  series(out, name, "", histogram);
}

// Calls write(rank, phase, totals) for what each rank has done steps of.
template <class Write>
void for_each_phase(const std::vector<StepTotals>& by_rank, const Write& write) {
  for (size_t rank = 0; rank < by_rank.size(); ++rank)
    for (int p = 0; p < kPhases; ++p)
      if (const PhaseTotals& totals = by_rank[rank][static_cast<size_t>(p)]; totals.steps > 0)
        write(rank, name_of(static_cast<Phase>(p)), totals);
}

// Time in which a rank had nothing to do but wait for others, and what went through between trunk and expert ranks.
void write_waits(const std::vector<StepTotals>& by_rank, std::string& out) {
  const auto seconds = [&](size_t rank, StepPart part) {
    double sum = 0;
    for (const PhaseTotals& phase : by_rank[rank]) sum += phase[part].seconds;
    return sum;
  };
  header(out, "rank_wait_seconds_total", "counter",
         "Time of a rank in waiting: in alltoall for rows or experts' sums, in allreduce for the other trunk ranks");
  for (size_t rank = 0; rank < by_rank.size(); ++rank) {
    if (const double x = seconds(rank, StepPart::wait); x > 0.0)
      line(out, "ktmpi_rank_wait_seconds_total{{rank=\"{}\",op=\"alltoall\"}} {}", rank, x);
    if (const double x = seconds(rank, StepPart::reduce); x > 0.0)
      line(out, "ktmpi_rank_wait_seconds_total{{rank=\"{}\",op=\"allreduce\"}} {}", rank, x);
  }
  header(out, "alltoall_seconds_total", "counter",
         "Time of trunk ranks between rows that were sent to experts and their sums");
  for (size_t rank = 0; rank < by_rank.size(); ++rank)
    if (seconds(rank, StepPart::router) > 0.0)
      line(out, "ktmpi_alltoall_seconds_total{{rank=\"{}\"}} {}", rank, seconds(rank, StepPart::wait));
  header(out, "alltoall_bytes_total", "counter", "Rows and sums that a rank has sent");
  for (size_t rank = 0; rank < by_rank.size(); ++rank) {
    int64_t sent = 0;
    for (const PhaseTotals& phase : by_rank[rank]) sent += phase.sent_bytes;
    if (sent > 0) line(out, "ktmpi_alltoall_bytes_total{{rank=\"{}\"}} {}", rank, sent);
  }
}

// What the ranks' time went into.
void write_steps(const std::vector<StepTotals>& by_rank, std::string& out) {
  header(out, "steps_total", "counter", "Steps of a rank; prefill steps compute prompts");
  for_each_phase(by_rank, [&](size_t rank, std::string_view phase, const PhaseTotals& totals) {
    line(out, "ktmpi_steps_total{{rank=\"{}\",phase=\"{}\"}} {}", rank, phase, totals.steps);
  });
  header(out, "step_rows_total", "counter", "Tokens in those steps");
  for_each_phase(by_rank, [&](size_t rank, std::string_view phase, const PhaseTotals& totals) {
    line(out, "ktmpi_step_rows_total{{rank=\"{}\",phase=\"{}\"}} {}", rank, phase, totals.rows);
  });
  const auto parts = [&](std::string_view metric, double PartTotal::*value) {
    for_each_phase(by_rank, [&](size_t rank, std::string_view phase, const PhaseTotals& totals) {
      for (int i = 0; i < kStepParts; ++i) {
        const StepPartName name = name_of(static_cast<StepPart>(i));
        if (const double x = totals.parts[static_cast<size_t>(i)].*value; x > 0.0)
          line(out, "ktmpi_{}{{rank=\"{}\",phase=\"{}\",part=\"{}\",layer=\"{}\"}} {}", metric, rank, phase, name.part,
               name.layer, x);
      }
    });
  };
  header(out, "step_seconds_total", "counter", "Time of a rank in steps by what it went into");
  parts("step_seconds_total", &PartTotal::seconds);
  header(out, "step_bytes_total", "counter", "Weights and cached rows that this touched, once for each step");
  parts("step_bytes_total", &PartTotal::bytes);
  write_waits(by_rank, out);
}

}  // namespace

std::string to_prometheus(const Metrics& metrics, const EngineStats& stats, std::string_view version,
                          const ServedModel& model) {
  std::string out;
  header(out, "build_info", "gauge", "Version and served model; always 1");
  line(out, "ktmpi_build_info{{version=\"{}\",model_name=\"{}\"}} 1", escape(version), escape(model.name));
  header(out, "rank_info", "gauge", "Machine and role of each process; always 1");
  for (size_t r = 0; r < model.ranks.size(); ++r)
    line(out, "ktmpi_rank_info{{rank=\"{}\",node=\"{}\",role=\"{}\"}} 1", r, model.ranks[r].node,
         escape(model.ranks[r].role));
  header(out, "rank_memory_bytes", "gauge", "Memory that each process takes for weights, caches and buffers");
  for (size_t r = 0; r < model.ranks.size(); ++r)
    line(out, "ktmpi_rank_memory_bytes{{rank=\"{}\"}} {}", r, model.ranks[r].memory_bytes);
  header(out, "numa_misplaced_pages", "gauge", "Sampled pages of a rank's experts that are not on its NUMA node");
  for (size_t r = 0; r < model.ranks.size(); ++r)
    if (model.ranks[r].misplaced_pages >= 0)
      line(out, "ktmpi_numa_misplaced_pages{{rank=\"{}\"}} {}", r, model.ranks[r].misplaced_pages);
  single(out, "restarts_total", "counter", "Times that Slurm has started this job again", model.restarts);
  single(out, "requests_running", "gauge", "Requests in the batch", stats.running);
  single(out, "requests_waiting", "gauge", "Requests in the queue", stats.waiting);
  single(out, "requests_swapped", "gauge", "Requests in the queue that ran before and gave their KV cache to others",
         stats.retracted);
  single(out, "kv_cache_usage_ratio", "gauge", "Tokens in the KV cache over its capacity",
         stats.kv_tokens_total > 0 ? static_cast<double>(stats.kv_tokens_used) / stats.kv_tokens_total : 0.0);
  single(out, "kv_cache_tokens", "gauge", "Capacity of the KV cache in tokens", stats.kv_tokens_total);
  single(out, "kv_tokens_cached", "gauge", "Tokens of the KV cache that no running request uses, kept for new ones",
         stats.kv_tokens_cached);
  single(out, "batch_tokens", "gauge", "Tokens of the last step", stats.batch_tokens);
  single(out, "generation_throughput", "gauge", "Tokens per second of recent decode steps",
         stats.last_generation_throughput);
  single(out, "step_age_seconds", "gauge", "Since the last finished step while work waits", stats.step_age_s);
  single(out, "http_connections", "gauge", "Open client connections", metrics.connections);
  single(out, "prompt_tokens_total", "counter", "Prompt tokens processed", stats.prompt_tokens_total);
  single(out, "generation_tokens_total", "counter", "Tokens generated", stats.generation_tokens_total);
  single(out, "cached_tokens_total", "counter", "Prompt tokens found in the prefix cache", stats.cached_tokens_total);
  single(out, "prefix_cache_queries_total", "counter", "Prompt tokens looked up in the prefix cache",
         stats.queried_tokens_total);
  single(out, "prefix_cache_hits_total", "counter", "Of them, found there", stats.cached_tokens_total);
  single(out, "requests_aborted_total", "counter", "Requests ended by their client or at shutdown",
         stats.aborted_total);
  single(out, "requests_retracted_total", "counter", "Times a running request went back to the queue",
         stats.retracted_total);
  single(out, "http_slow_readers_dropped_total", "counter", "Streams whose client did not read",
         metrics.dropped_slow_readers);
  write_steps(stats.step_totals, out);
  header(out, "requests_total", "counter", "Requests for text by HTTP status and finish reason");
  for (const auto& [labels, count] : metrics.requests)
    line(out, "ktmpi_requests_total{{code=\"{}\",finish_reason=\"{}\"}} {}", labels.first, labels.second, count);
  header(out, "step_seconds", "histogram", "Steps by what was in them");
  series(out, "step_seconds", "phase=\"prefill\",", stats.prefill_steps);
  series(out, "step_seconds", "phase=\"decode\",", stats.decode_steps);
  series(out, "step_seconds", "phase=\"mixed\",", stats.mixed_steps);
  single(out, "queue_time_seconds", "From a request's arrival to its first step", metrics.queue_time);
  single(out, "time_to_first_token_seconds", "From a request's arrival to its first token",
         metrics.time_to_first_token);
  single(out, "inter_token_latency_seconds", "Between two tokens of one choice", metrics.inter_token_latency);
  single(out, "e2e_request_latency_seconds", "From a request's arrival to its last token", metrics.e2e_latency);
  if (model.more_metrics) out += model.more_metrics();
  return out;
}

}  // namespace kt
