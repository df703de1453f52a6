#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "runtime/base/units.h"
#include "runtime/plan/plan.h"

namespace kt {
namespace {

constexpr size_t kColumns = 5;  // of ranks in one table

const char* plural(int n) { return n == 1 ? "" : "s"; }

// Ranks that are alike, in one column.
struct Column {
  const RankPlan* rank;
  std::vector<int> ranks;

  std::string name() const {
    if (ranks.size() == 1) return fmt::format("rank {}", ranks.front());
    if (ranks.back() - ranks.front() + 1 == static_cast<int>(ranks.size()))
      return fmt::format("ranks {}-{}", ranks.front(), ranks.back());
    return fmt::format("{} ranks", ranks.size());
  }
};

bool alike(const RankPlan& a, const RankPlan& b) {
  return a.role == b.role && std::all_of(purposes().begin(), purposes().end(),
                                         [&](const Purpose& p) { return a.memory.*p.bytes == b.memory.*p.bytes; });
}

std::vector<Column> columns_of(const std::vector<RankPlan>& ranks) {
  std::vector<Column> columns;
  for (const RankPlan& r : ranks) {
    const auto same = std::find_if(columns.begin(), columns.end(), [&](const Column& c) { return alike(*c.rank, r); });
    (same != columns.end() ? *same : columns.emplace_back(Column{&r, {}})).ranks.push_back(r.rank);
  }
  return columns;
}

std::string heading(const ClusterPlan& plan) {
  const ModelConfig& c = plan.deployment.model.config;
  const Hardware& h = plan.hardware;
  std::string text =
      fmt::format("{}: {} layers, {} of them with {} experts each, as {}\n", c.architecture, c.layers.size(),
                  moe_layer_count(c), c.moe.experts, info(plan.deployment.experts).name);
  const std::string machines = h.nodes > 1 ? fmt::format("{} machines, each with ", h.nodes) : "";
  text += fmt::format("{}: {}{} core{}, {} NUMA node{}, {:.1f} GB", h.name, machines, h.cores, plural(h.cores),
                      h.numa_nodes, plural(h.numa_nodes), h.memory_gb);
  if (h.gpus) text += fmt::format(", {} GPU{} of {:.0f} GB", h.gpus, plural(h.gpus), h.gpu_memory_gb);
  text += "\n\nnumbers of ranks (mpirun -np):\n";
  for (const WorldSize& w : plan.worlds)
    text += fmt::format("  {:>4}  {}{}\n", w.ranks, w.roles,
                        w.ranks == plan.deployment.topology.world ? "  <- this plan" : "");
  return text;
}

// A line of a table, without what follows the last cell.
std::string line(std::string_view name, const std::vector<std::string>& cells) {
  std::string text = fmt::format("{:<16}", name);
  for (const std::string& cell : cells) text += fmt::format("{:>20}", cell);
  text.erase(text.find_last_not_of(' ') + 1);
  return text + '\n';
}

template <class Cell>
std::string line_of(std::string_view name, std::span<const Column> columns, const Cell& cell) {
  std::vector<std::string> cells;
  for (const Column& c : columns) cells.push_back(cell(c));
  return line(name, cells);
}

std::string shown(size_t bytes) { return bytes ? fmt::format("{:.2f}", gb(bytes)) : ""; }

std::string rank_table(const ClusterPlan& plan, std::span<const Column> columns) {
  const bool gpu = plan.deployment.gpu_trunk;
  std::string text = "\n";
  text += line_of("GB", columns, [](const Column& c) { return c.name(); });
  text += line_of("", columns, [](const Column& c) { return c.rank->role; });
  for (const Purpose& p : purposes()) {
    const auto used = [&](const Column& c) { return c.rank->memory.*p.bytes > 0; };
    if (std::any_of(columns.begin(), columns.end(), used))
      text += line_of(p.name, columns, [&](const Column& c) { return shown(c.rank->memory.*p.bytes); });
  }
  if (gpu)
    text += line_of("VRAM", columns, [&](const Column& c) {
      const size_t bytes = c.rank->memory.on_device();
      return bytes ? fmt::format("{:.2f} of {:.2f}", gb(bytes), plan.hardware.gpu_memory_gb) : "";
    });
  return text + line_of("RAM", columns, [&](const Column& c) {
           return shown(gpu ? c.rank->memory.in_memory() : c.rank->memory.total());
         });
}

// What all ranks of a machine take of its memory, by machine.
std::vector<size_t> machine_memory(const ClusterPlan& plan) {
  std::vector<size_t> bytes(static_cast<size_t>(plan.hardware.nodes), 0);
  for (const RankPlan& r : plan.ranks)
    bytes[static_cast<size_t>(r.node)] += plan.deployment.gpu_trunk ? r.memory.in_memory() : r.memory.total();
  return bytes;
}

// One of the two slots is what the tutorials of KTransformers call layerwise prefill's extra memory.
size_t layer_slot(const ClusterPlan& plan) {
  size_t most = 0;
  for (const RankPlan& r : plan.ranks) most = std::max(most, r.memory.layer_slots / kLayerSlots);
  return plan.deployment.gpu_trunk ? most : 0;
}

std::string totals(const ClusterPlan& plan) {
  const std::vector<size_t> machines = machine_memory(plan);
  std::string text = "\n";
  for (size_t m = 0; m < machines.size(); ++m)
    text += fmt::format("machine {}: {:.1f} of {:.1f} GB of memory\n", m, gb(machines[m]), plan.hardware.memory_gb);
  if (const size_t slot = layer_slot(plan))
    text += fmt::format("layerwise prefill: {} slots of {:.2f} GB, so that one is filled while the other is computed\n",
                        kLayerSlots, gb(slot));
  if (!plan.layout.why.empty())
    text += fmt::format("expert-layout auto: {} ({})\n", plan.layout.layout, plan.layout.why);
  if (!plan.sliced.why.empty()) text += sliced_line(plan.sliced) + "\n";
  if (machines.size() > 1)
    text += fmt::format("expert sums between machines: {}{}\n", plan.dispatch_dtype,
                        plan.dispatch_dtype == "exact" ? " (float64)" : ", rounded once a machine");
  const Deployment& d = plan.deployment;
  const double files = gb(d.trunk_files + d.expert_files);
  text += fmt::format("files to read: {:.1f} GB ({:.1f} trunk, {:.1f} experts)", files, gb(d.trunk_files),
                      gb(d.expert_files));
  if (plan.hardware.disk_gbs > 0) text += fmt::format(", {:.0f} s from disk", files / plan.hardware.disk_gbs);
  return text + "\n";
}

std::string rate_table(const RateLimits& limits) {
  if (!limits.missing.empty())
    return fmt::format("\nat best: not known without the hardware's {} (ktmpi plan --hardware FILE)\n", limits.missing);
  std::string text = "\nmost tokens/s that this hardware allows; measured rates are lower\n";
  for (const RateLimit& r : limits.prefill)
    text += fmt::format("  prefill {:>7} tokens {:>21.0f}   longest: {}\n", r.tokens, r.tokens_per_s, r.bound);
  for (const RateLimit& r : limits.decode)
    text += fmt::format("  decode  {:>7} context x {:>3} {:>12.1f}   longest: {}\n", r.tokens, r.batch, r.tokens_per_s,
                        r.bound);
  return text;
}

std::string verdict(const ClusterPlan& plan) {
  if (plan.shortages.empty()) return "\neverything fits\n";
  std::string text = "\n";
  for (const Shortage& s : plan.shortages)
    text += fmt::format("{} needs {:.2f} GB and has {:.2f}\n", s.where, gb(s.needed), gb(s.available));
  if (!plan.remedies.options.empty()) return text + describe(plan.remedies) + "\n";
  if (plan.nodes_needed)
    return text + fmt::format("lowering options does not help; use {} machines\n", plan.nodes_needed);
  return text + "neither lower options nor more machines help; use a smaller model or format\n";
}

nlohmann::ordered_json rates_json(const std::vector<RateLimit>& limits, const char* tokens) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const RateLimit& r : limits)
    list.push_back({{tokens, r.tokens}, {"batch", r.batch}, {"tokens_per_s", r.tokens_per_s}, {"longest", r.bound}});
  return list;
}

std::string key(std::string_view purpose) {
  std::string text(purpose);
  std::replace(text.begin(), text.end(), ' ', '_');
  return text;
}

}  // namespace

std::string to_text(const ClusterPlan& plan) {
  std::string text = heading(plan);
  const std::vector<Column> columns = columns_of(plan.ranks);
  for (size_t i = 0; i < columns.size(); i += kColumns)
    text += rank_table(plan, std::span(columns).subspan(i, std::min(kColumns, columns.size() - i)));
  if (const std::string idle = idle_ranks_line(plan.deployment.model.config, plan.deployment.topology); !idle.empty())
    text += "\n" + idle + "\n";
  return text + totals(plan) + rate_table(plan.limits) + verdict(plan);
}

nlohmann::ordered_json to_json(const ClusterPlan& plan) {
  using Json = nlohmann::ordered_json;
  const Deployment& d = plan.deployment;
  Json ranks = Json::array(), worlds = Json::array(), shortages = Json::array(), remedies = Json::array();
  for (const RankPlan& r : plan.ranks) {
    Json rank = {{"rank", r.rank}, {"node", r.node}, {"role", r.role}, {"bytes", Json::object()}};
    for (const Purpose& p : purposes()) rank["bytes"][key(p.name)] = r.memory.*p.bytes;
    rank["vram_bytes"] = d.gpu_trunk ? r.memory.on_device() : 0;
    rank["ram_bytes"] = d.gpu_trunk ? r.memory.in_memory() : r.memory.total();
    ranks.push_back(std::move(rank));
  }
  for (const WorldSize& w : plan.worlds) worlds.push_back({{"ranks", w.ranks}, {"roles", w.roles}});
  for (const Shortage& s : plan.shortages)
    shortages.push_back({{"where", s.where}, {"needed_bytes", s.needed}, {"available_bytes", s.available}});
  for (const Remedy& r : plan.remedies.options)
    remedies.push_back({{"option", r.option}, {"value", r.value}, {"instead_of", r.instead_of}});
  return {{"architecture", d.model.config.architecture},
          {"experts", info(d.experts).name},
          {"hardware", plan.hardware.name},
          {"expert_layout", plan.layout.layout},
          {"sliced_below", plan.sliced.below},
          {"world", d.topology.world},
          {"valid_worlds", worlds},
          {"fits", plan.shortages.empty()},
          {"ranks", ranks},
          {"ranks_without_experts", ranks_without_experts(d.model.config, d.topology)},
          {"machine_ram_bytes", machine_memory(plan)},
          {"layer_slot_bytes", layer_slot(plan)},
          {"files_bytes", {{"trunk", d.trunk_files}, {"experts", d.expert_files}}},
          {"shortages", shortages},
          {"remedies", remedies},
          {"remedies_together", plan.remedies.together},
          {"nodes_needed", plan.nodes_needed},
          {"prefill_limits", rates_json(plan.limits.prefill, "prompt")},
          {"decode_limits", rates_json(plan.limits.decode, "context")},
          {"limits_missing", plan.limits.missing}};
}

}  // namespace kt
