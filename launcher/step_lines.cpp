#include "launcher/step_lines.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "launcher/lines.h"
#include "runtime/model/traffic.h"

namespace kt {
namespace {

using Json = nlohmann::ordered_json;

double rounded(double x, double to = 1e4) { return std::round(x * to) / to; }

double median(std::vector<double> v) {
  if (v.empty()) return 0.0;
  std::nth_element(v.begin(), v.begin() + static_cast<std::ptrdiff_t>(v.size() / 2), v.end());
  return v[v.size() / 2];
}

Json work(const PartTotal& total, double divisor, double dram_gbps) {
  Json line = {{"ms", rounded(total.seconds / divisor * 1e3)}};
  if (total.bytes <= 0.0) return line;
  const double gbps = total.bytes / total.seconds / 1e9;
  line["mb"] = rounded(total.bytes / divisor / 1e6);
  line["gbps"] = rounded(gbps, 100);
  line["fraction_of_dram"] = rounded(gbps / dram_gbps, 1000);
  return line;
}

// The parts of one rank's time in all steps of a phase, `divisor` of them taken together.
Json parts_of(const PhaseTotals& totals, double divisor, double dram_gbps) {
  Json parts = Json::array();
  for (int p = 0; p < kStepParts; ++p) {
    const PartTotal& total = totals.parts[static_cast<size_t>(p)];
    if (total.seconds <= 0.0) continue;
    const StepPartName name = name_of(static_cast<StepPart>(p));
    Json part = {{"part", name.part}, {"layer", name.layer}};
    part.update(work(total, divisor, dram_gbps));
    parts.push_back(std::move(part));
  }
  return parts;
}

// Those of all parts of a layer, by its number.
Json layers_of(const LayerTotals& layers, Phase phase, double divisor, double dram_gbps) {
  Json result = Json::array();
  for (size_t l = 0; l < layers.size(); ++l) {
    const LayerTotal& total = layers[l][static_cast<size_t>(phase)];
    if (total.work.seconds + total.wait_s <= 0.0) continue;
    Json layer = {{"layer", l}};
    layer.update(work(total.work, divisor, dram_gbps));
    layer["wait_ms"] = rounded(total.wait_s / divisor * 1e3);
    result.push_back(std::move(layer));
  }
  return result;
}

// The share of choices that met a hot expert; MB that came to the first trunk rank for a step, and to stay, `divisor`
// of them taken together; the share of the routing weight that was added one MoE layer late.
Json routed(const RoutedTotals& t, double divisor) {
  const auto ratio = [](double part, double whole) { return whole > 0 ? rounded(part / whole) : 0.0; };
  return {{"hot_hit_rate", ratio(static_cast<double>(t.hot_pairs), static_cast<double>(t.pairs))},
          {"streamed_mb", rounded(static_cast<double>(t.streamed_bytes) / divisor / 1e6)},
          {"moved_mb", rounded(static_cast<double>(t.moved_bytes) / divisor / 1e6)},
          {"deferred_weight", ratio(t.late_weight, t.weight)}};
}

// Those that distinguish the ways of --compare are there when it is asked for.
std::vector<Column> columns_for(const Json& line) {
  std::vector<Column> columns = {{.member = "phase", .left = true},
                                 {.member = "prompt|context", .title = "tokens"},
                                 {.member = "batch", .width = 5},
                                 {.member = "ttft_ms|ms_per_token", .title = "ms", .digits = 3, .width = 10},
                                 {.member = "tokens_per_s", .title = "tokens/s", .digits = 2, .width = 10}};
  for (const char* more : {"recording", "path", "predicted_ms", "chosen"})
    if (line.contains(more)) columns.push_back({.member = more, .width = 9});
  return columns;
}

// Parts of the same name as one: of all kinds of mixers.
Json row_of(const Json& rank) {
  Json row = {{"rank", rank["rank"]}, {"role", rank["role"]}, {"dram_gbps", rank["dram_gbps"]}};
  for (const Json& part : rank["parts"]) {
    const std::string name = part["part"];
    row[name] = row.value(name, 0.0) + part["ms"].get<double>();
  }
  return row;
}

void print_tables(const Json& line) {
  Lines(columns_for(line), true).print(line);
  std::vector<Column> columns = {{.member = "rank", .width = 6}, {.member = "role", .width = 22, .left = true}};
  for (int p = 0; p < kStepParts; ++p)
    if (const std::string_view part = name_of(static_cast<StepPart>(p)).part; part != columns.back().member)
      columns.push_back({.member = part, .digits = 3, .width = 8});
  columns.push_back({.member = "dram_gbps", .title = "DRAM GB/s", .digits = 1});
  Lines ranks(columns, true);
  for (const Json& rank : line["ranks"]) ranks.print(row_of(rank));
  fmt::print("\n");
}

}  // namespace

// Prefill counts whole prompts, decode one step.
Json StepLines::ranks(const StepTiming& timing, Phase phase) const {
  Json ranks = Json::array();
  Topology topology = job_.topology;
  for (int r = 0; r < topology.world; ++r) {
    topology.rank = r;
    const ClockReading& reading = timing.by_rank[static_cast<size_t>(r)];
    const PhaseTotals& totals = reading.parts[static_cast<size_t>(phase)];
    const double divisor = std::max(
        1.0, phase == Phase::decode ? static_cast<double>(totals.steps) : static_cast<double>(timing.prefill_s.size()));
    ranks.push_back({{"rank", r},
                     {"role", topology.role_name()},
                     {"dram_gbps", rounded(dram_[static_cast<size_t>(r)], 100)},
                     {"sent_bytes", rounded(static_cast<double>(totals.sent_bytes) / divisor, 1)},
                     {"wait_ms", rounded(totals[StepPart::wait].seconds / divisor * 1e3)},
                     {"parts", parts_of(totals, divisor, dram_[static_cast<size_t>(r)])},
                     {"by_layer", layers_of(reading.layers, phase, divisor, dram_[static_cast<size_t>(r)])}});
  }
  return ranks;
}

Json StepLines::head(const char* phase, int tokens) const {
  const ModelConfig& model = job_.model();
  Json line = {{"phase", phase}};
  line[std::string_view(phase) == "prefill" ? "prompt" : "context"] = tokens;
  line.update(Json{{"batch", batch_},
                   {"model", job_.run.served_model_name},
                   {"layers", model.layers.size()},
                   {"experts", model.moe.experts},
                   {"indexer", model.mla.indexer.has_value()},
                   {"method", info(job_.experts->source.format).name},
                   {"trunk_method", job_.run.trunk_method},
                   {"trunk_matmul", job_.run.trunk_matmul},
                   {"trunk_sums", job_.run.trunk_sums},
                   {"ranks_total", job_.topology.world},
                   {"nodes", std::ranges::max(job_.topology.node_of) + 1},
                   {"node_of", job_.topology.node_of},
                   {"layout", job_.layout.layout},
                   {"transport", job_.transport.name()},
                   {"threads", job_.cores.threads},
                   {"kernels", job_.ops->name}});
  return line;
}

void StepLines::print(Json line, const StepTiming& timing, Phase phase) const {
  const size_t taken = phase == Phase::decode ? timing.decode_s.size() : timing.prefill_s.size();
  line.update(routed(timing.routed[static_cast<size_t>(phase)], std::max(1.0, static_cast<double>(taken))));
  line["ranks"] = ranks(timing, phase);
  if (table_)
    print_tables(line);
  else
    Lines({}, false).print(line);
}

void StepLines::prefill(int prompt, const StepTiming& timing, const Json& more) const {
  const double seconds = median(timing.prefill_s);
  Json line = head("prefill", prompt);
  line["chunk"] = job_.engine.chunked_prefill_size;
  line["ttft_ms"] = rounded(seconds * 1e3, 1e3);
  line["ttft_ms_min"] = rounded(std::ranges::min(timing.prefill_s) * 1e3, 1e3);
  line["tokens_per_s"] = rounded(batch_ * prompt / seconds, 100);
  line.update(more);
  print(std::move(line), timing, Phase::prefill);
}

void StepLines::decode(int context, const StepTiming& timing, bool measured, const Json& more) const {
  const double step = median(timing.decode_s);
  Json line = head("decode", context);
  line["context_computed"] = measured;
  line["steps"] = timing.decode_s.size();
  line["ms_per_token"] = rounded(step * 1e3);
  line["tokens_per_s"] = rounded(batch_ / step, 100);
  if (const MlaSpec& mla = job_.model().mla; mla.heads && mla.indexer) {
    const double layers = static_cast<double>(job_.model().layers.size()) * batch_;
    const SparseTraffic traffic = sparse_traffic(mla, {.first = context, .count = 1});
    line["picked_rows_mb"] = rounded(layers * traffic.rows / 1e6);
    line["index_keys_mb"] = rounded(layers * traffic.index_keys / 1e6);
  }
  line.update(more);
  print(std::move(line), timing, Phase::decode);
}

}  // namespace kt
