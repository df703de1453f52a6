#include "runtime/serve/http/status.h"

#include "runtime/serve/json.h"
#include "runtime/serve/service.h"

namespace kt {
namespace {

// The rate at which a rank reads weights and cached rows while it works, and the share of its steps in which it waits
// for expert ranks or trunk ranks; nothing before its first step.
Json work_of(const StepTotals& totals) {
  double seconds = 0, waited = 0, bytes = 0;
  for (const PhaseTotals& phase : totals) {
    for (const PartTotal& part : phase.parts) {
      seconds += part.seconds;
      bytes += part.bytes;
    }
    waited += phase[StepPart::wait].seconds + phase[StepPart::reduce].seconds;
  }
  Json work = Json::object();
  if (seconds > waited) work["bytes_per_second"] = bytes / (seconds - waited);
  if (seconds > 0) work["waited_ratio"] = waited / seconds;
  return work;
}

Json ranks_of(const EngineStats& stats, const ServedModel& model) {
  Json ranks = Json::array();
  for (size_t r = 0; r < model.ranks.size(); ++r) {
    const ServedRank& served = model.ranks[r];
    Json rank = {{"node", served.node}, {"role", served.role}, {"memory_bytes", served.memory_bytes}};
    if (r < stats.step_totals.size()) rank.update(work_of(stats.step_totals[r]));
    ranks.push_back(std::move(rank));
  }
  return ranks;
}

}  // namespace

std::string status_json(const EngineStats& stats, std::string_view state, const ServedModel& model) {
  const bool idle = stats.running + stats.waiting == 0;
  Json status = {{"status", state},
                 {"model", model.name},
                 {"requests_running", stats.running},
                 {"requests_waiting", stats.waiting},
                 {"tokens_per_second", idle ? 0.0 : stats.last_generation_throughput},
                 {"prompt_tokens", stats.prompt_tokens_total},
                 {"cached_tokens", stats.cached_tokens_total},
                 {"generation_tokens", stats.generation_tokens_total},
                 {"kv_tokens", stats.kv_tokens_total},
                 {"kv_tokens_used", stats.kv_tokens_used},
                 {"kv_tokens_kept", stats.kv_tokens_cached},
                 {"ranks", ranks_of(stats, model)}};
  if (model.expert_status) status["experts"] = Json::parse(model.expert_status());
  return dump(status);
}

}  // namespace kt
