#include "runtime/serve/http/metrics.h"

#include "runtime/base/prometheus.h"
#include "runtime/serve/service.h"

namespace kt {
namespace {

// Calls write(rank, phase, totals) for what each rank has done steps of.
template <class Write>
void for_each_phase(const std::vector<StepTotals>& by_rank, const Write& write) {
  for (size_t rank = 0; rank < by_rank.size(); ++rank)
    for (int p = 0; p < kPhases; ++p)
      if (const PhaseTotals& totals = by_rank[rank][static_cast<size_t>(p)]; totals.steps > 0)
        write(rank, name_of(static_cast<Phase>(p)), totals);
}

// Time in which a rank had nothing to do but wait for others, and what went through between trunk and expert ranks.
void write_waits(const std::vector<StepTotals>& by_rank, PrometheusText& text) {
  const auto seconds = [&](size_t rank, StepPart part) {
    double sum = 0;
    for (const PhaseTotals& phase : by_rank[rank]) sum += phase[part].seconds;
    return sum;
  };
  text.counter(
      "rank_wait_seconds_total",
      "Time of a rank in waiting: in alltoall for rows or experts' sums, in allreduce for the other trunk ranks");
  for (size_t rank = 0; rank < by_rank.size(); ++rank) {
    if (const double x = seconds(rank, StepPart::wait); x > 0.0) text.add({{"rank", rank}, {"op", "alltoall"}}, x);
    if (const double x = seconds(rank, StepPart::reduce); x > 0.0) text.add({{"rank", rank}, {"op", "allreduce"}}, x);
  }
  text.counter("alltoall_seconds_total", "Time of trunk ranks between rows that were sent to experts and their sums");
  for (size_t rank = 0; rank < by_rank.size(); ++rank)
    if (seconds(rank, StepPart::router) > 0.0) text.add({{"rank", rank}}, seconds(rank, StepPart::wait));
  text.counter("alltoall_bytes_total", "Rows and sums that a rank has sent");
  for (size_t rank = 0; rank < by_rank.size(); ++rank) {
    int64_t sent = 0;
    for (const PhaseTotals& phase : by_rank[rank]) sent += phase.sent_bytes;
    if (sent > 0) text.add({{"rank", rank}}, sent);
  }
}

// What the ranks' time went into.
void write_steps(const std::vector<StepTotals>& by_rank, PrometheusText& text) {
  text.counter("steps_total", "Steps of a rank; prefill steps compute prompts");
  for_each_phase(by_rank, [&](size_t rank, std::string_view phase, const PhaseTotals& totals) {
    text.add({{"rank", rank}, {"phase", phase}}, totals.steps);
  });
  text.counter("step_rows_total", "Tokens in those steps");
  for_each_phase(by_rank, [&](size_t rank, std::string_view phase, const PhaseTotals& totals) {
    text.add({{"rank", rank}, {"phase", phase}}, totals.rows);
  });
  const auto parts = [&](double PartTotal::*value) {
    for_each_phase(by_rank, [&](size_t rank, std::string_view phase, const PhaseTotals& totals) {
      for (int i = 0; i < kStepParts; ++i) {
        const StepPartName name = name_of(static_cast<StepPart>(i));
        if (const double x = totals.parts[static_cast<size_t>(i)].*value; x > 0.0)
          text.add({{"rank", rank}, {"phase", phase}, {"part", name.part}, {"layer", name.layer}}, x);
      }
    });
  };
  text.counter("step_seconds_total", "Time of a rank in steps by what it went into");
  parts(&PartTotal::seconds);
  text.counter("step_bytes_total", "Weights and cached rows that this touched, once for each step");
  parts(&PartTotal::bytes);
  write_waits(by_rank, text);
}

}  // namespace

std::string to_prometheus(const Metrics& metrics, const EngineStats& stats, std::string_view version,
                          const ServedModel& model) {
  PrometheusText text;
  text.gauge("build_info", "Version and served model; always 1");
  text.add({{"version", version}, {"model_name", model.name}}, 1);
  text.gauge("rank_info", "Machine and role of each process; always 1");
  for (size_t r = 0; r < model.ranks.size(); ++r)
    text.add({{"rank", r}, {"node", model.ranks[r].node}, {"role", model.ranks[r].role}}, 1);
  text.gauge("rank_memory_bytes", "Memory that each process takes for weights, caches and buffers");
  for (size_t r = 0; r < model.ranks.size(); ++r) text.add({{"rank", r}}, model.ranks[r].memory_bytes);
  text.gauge("numa_misplaced_pages", "Sampled pages of a rank's experts that are not on its NUMA node");
  for (size_t r = 0; r < model.ranks.size(); ++r)
    if (model.ranks[r].misplaced_pages >= 0) text.add({{"rank", r}}, model.ranks[r].misplaced_pages);
  text.counter("restarts_total", "Times that this job was started again", model.restarts);
  text.gauge("requests_running", "Requests in the batch", stats.running);
  text.gauge("requests_waiting", "Requests in the queue", stats.waiting);
  text.gauge("requests_swapped", "Requests in the queue that ran before and gave their KV cache to others",
             stats.retracted);
  text.gauge("kv_cache_usage_ratio", "Tokens in the KV cache over its capacity",
             stats.kv_tokens_total > 0 ? static_cast<double>(stats.kv_tokens_used) / stats.kv_tokens_total : 0.0);
  text.gauge("kv_cache_tokens", "Capacity of the KV cache in tokens", stats.kv_tokens_total);
  text.gauge("kv_tokens_cached", "Tokens of the KV cache that no running request uses, kept for new ones",
             stats.kv_tokens_cached);
  const bool idle = stats.running + stats.waiting == 0;
  text.gauge("batch_tokens", "Tokens of the last step, 0 when idle", idle ? 0 : stats.batch_tokens);
  text.gauge("generation_throughput", "Tokens per second of recent decode steps, 0 when idle",
             idle ? 0.0 : stats.last_generation_throughput);
  text.gauge("step_age_seconds", "Since the last finished step while work waits", stats.step_age_s);
  text.gauge("http_connections", "Open client connections", metrics.connections);
  text.counter("prompt_tokens_total", "Prompt tokens processed", stats.prompt_tokens_total);
  text.counter("generation_tokens_total", "Tokens generated", stats.generation_tokens_total);
  text.counter("cached_tokens_total", "Prompt tokens found in the prefix cache", stats.cached_tokens_total);
  text.counter("prefix_cache_queries_total", "Prompt tokens looked up in the prefix cache", stats.queried_tokens_total);
  text.counter("prefix_cache_hits_total", "Of them, found there", stats.cached_tokens_total);
  text.counter("prefix_cache_evicted_tokens_total", "Tokens that the prefix cache gave up for others",
               stats.evicted_tokens_total);
  text.counter("requests_aborted_total", "Requests ended by their client or at shutdown", stats.aborted_total);
  text.counter("requests_retracted_total", "Times a running request went back to the queue", stats.retracted_total);
  text.counter("http_slow_readers_dropped_total", "Streams whose client did not read", metrics.dropped_slow_readers);
  write_steps(stats.step_totals, text);
  text.counter("requests_total", "Requests for text by HTTP status and finish reason");
  for (const auto& [labels, count] : metrics.requests)
    text.add({{"code", labels.first}, {"finish_reason", labels.second}}, count);
  text.histogram("step_seconds", "Steps by what was in them");
  text.add({{"phase", "prefill"}}, stats.prefill_steps);
  text.add({{"phase", "decode"}}, stats.decode_steps);
  text.add({{"phase", "mixed"}}, stats.mixed_steps);
  text.histogram("queue_time_seconds", "From a request's arrival to its first step", metrics.queue_time);
  text.histogram("time_to_first_token_seconds", "From a request's arrival to its first token",
                 metrics.time_to_first_token);
  text.histogram("inter_token_latency_seconds", "Between two tokens of one choice", metrics.inter_token_latency);
  text.histogram("e2e_request_latency_seconds", "From a request's arrival to its last token", metrics.e2e_latency);
  return text.take() + (model.more_metrics ? model.more_metrics() : "");
}

}  // namespace kt
