#include "runtime/plan/cost.h"

#include <algorithm>
#include <cmath>

#include "runtime/base/units.h"
#include "runtime/comm/mailbox.h"

namespace kt {
namespace {

// Keys that attention reads of `keys` that are there.
double visible(const ModelConfig& c, double keys) {
  return c.mla.indexer ? std::min<double>(keys, c.mla.indexer->top_k) : keys;
}

// Keys and values that a sequence's attention reads, and what one row multiplies, in all layers.
Work attention(const ModelConfig& c, const TrunkShare& share, double keys) {
  const double seen = visible(c, keys), heads = share.heads.size();
  Work a;
  for (LayerSpec l : c.layers) {
    if (l.mixer == Mixer::mla) {
      a.bytes += seen * c.mla.cached_dim() * 2;
      a.flops += 2 * heads * (c.mla.head_dim() + c.mla.value_dim) * seen;
      if (c.mla.indexer) {
        a.bytes += keys * c.mla.indexer->head_dim * 2;
        a.flops += 2.0 * c.mla.indexer->heads * c.mla.indexer->head_dim * keys;
      }
    } else if (l.mixer == Mixer::attention) {
      a.bytes += seen * share.kv_heads.size() * c.attention.head_dim * 2 * 2;
      a.flops += 4 * heads * c.attention.head_dim * seen;
    } else {
      a.flops += 6.0 * share.value_heads.size() * c.delta.key_dim * c.delta.value_dim;
    }
  }
  return a;
}

std::vector<Team> teams_of(const ModelConfig& config, const Topology& topology) {
  const std::vector<ExpertShare> shares = expert_shares(config.moe.inter, topology.group_of, topology.replicated);
  std::vector<bool> holds;
  for (const ExpertShare& s : shares) holds.push_back(s.count(config.moe.experts) > 0);
  return make_teams(topology, holds);
}

}  // namespace

double seconds(const Work& work, const Rates& rates) {
  return std::max(work.bytes / rates.bytes, rates.flops > 0 ? work.flops / rates.flops : 0.0);
}

Rates cpu_rates(const Hardware& machine) { return {machine.memory_bandwidth_gbs * kGiga, machine.cpu_tflops * kTera}; }

Rates gpu_rates(const Hardware& machine) { return {machine.gpu_bandwidth_gbs * kGiga, machine.gpu_tflops * kTera}; }

PassCost pass_cost(const RunConfig& run, const Deployment& d) {
  const ModelConfig& c = d.model.config;
  const TrunkShare& share = d.shares.front();
  PassCost p{.config = c,
             .share = share,
             .limits = trunk_limits(run, engine_config(run, c), c, d.experts, d.topology),
             .trunks = static_cast<double>(d.shares.size()),
             .moe_layers = static_cast<double>(moe_layer_count(c)),
             .threshold = std::max(0, run.prefill_threshold())};
  const Format trunk_format = c.quant.stored == Stored::fp8_block ? Format::FP8 : Format::BF16;
  p.shared_weights = p.moe_layers * 3.0 * c.hidden * share.shared.size();
  p.shared_bytes = p.moe_layers * 3 * static_cast<double>(stored_bytes(trunk_format, c.hidden, share.shared.size()));
  p.trunk_bytes = static_cast<double>(d.trunk.front().resident) - p.shared_bytes;
  p.head_weights = static_cast<double>(c.hidden) * share.vocab.size();
  p.trunk_weights = static_cast<double>(d.trunk.front().elements) - p.shared_weights - p.head_weights;
  p.state_bytes = static_cast<double>(StateCache::bytes(c, share, {.slots = 1}).states);
  if (!c.moe.experts) return p;
  const double flops = 6.0 * c.hidden * c.moe.inter;
  p.expert = {static_cast<double>(expert_bytes(c, d.experts, c.moe.inter)), flops};
  p.hot_expert = {static_cast<double>(expert_bytes(c, p.limits.hot_format, c.moe.inter)), flops};
  p.hot = static_cast<double>(p.limits.hot_experts) / (p.moe_layers * c.moe.experts);
  return p;
}

Work PassCost::trunk(const Pass& pass) const {
  const Work a = attention(config, share, pass.keys);
  return {trunk_bytes + pass.sequences * (a.bytes + 2 * state_bytes),
          2 * trunk_weights * pass.rows + 2 * head_weights * pass.logit_rows + a.flops * pass.rows};
}

Work PassCost::shared(double rows) const { return {shared_bytes, 2 * shared_weights * rows}; }

double PassCost::experts_read(double rows) const {
  return config.moe.experts ? loads_of_groups(uniform_chances(config.moe), 1, rows).wanted : 0;
}

Messages messages_of_layer(const ModelConfig& config, const Topology& topology, WireType wire, const GroupLoads& loads,
                           double rows) {
  const DispatchShape shape{.hidden = config.hidden, .top_k = config.moe.top_k};
  const double trunks = static_cast<double>(topology.trunk.size());
  const double routing = 8.0 * config.moe.top_k;  // ids and weights of a row
  const double sum = 8.0 * config.hidden, far_row = static_cast<double>(shape.row_stride()) * sizeof(bf16) + routing,
               far_sum = static_cast<double>(shape.sum_stride()) * static_cast<double>(wire_bytes(wire));
  Messages m;
  for (const Team& team : teams_of(config, topology)) {
    if (team.group < 0) continue;
    const double reached = loads.reached[static_cast<size_t>(team.group)], each = reached / trunks;
    const double ranks = static_cast<double>(team.ranks.size());
    const double any = reached > 0 ? 1 - std::pow(1 - std::min(1.0, reached / rows), rows) : 0;  // chance of a row
    bool any_near = false, any_far = false;
    for (const int trunk : topology.trunk) {
      const bool near =
          topology.node_of[static_cast<size_t>(trunk)] == topology.node_of[static_cast<size_t>(team.ranks.front())];
      (near ? any_near : any_far) = true;
      (near ? m.near : m.far) += 1 + any * (near ? ranks : 1);
      if (near)
        m.near_out += each * (config.hidden * static_cast<double>(sizeof(bf16)) + routing);
      else
        m.far_out += each * far_row + static_cast<double>(sizeof(Order)), m.far_back += each * far_sum;
    }
    // Sums that ranks of the machine read: trunk ranks, and for others the team's first rank.
    if (any_near) m.near_back += ranks * reached * sum;
    if (!any_near && any_far) m.near_back += (ranks - 1) * reached * sum;
  }
  return m;
}

double seconds_of_messages(const Messages& m, const Hardware& machine) {
  double time = (m.near_out + m.near_back) * 2 / (machine.memory_bandwidth_gbs * kGiga);
  if (m.far > 0 && machine.network_gbs > 0)
    time += (m.far_out + m.far_back) / (machine.network_gbs * kGiga) + 2e-6 * machine.network_latency_us;
  return time;
}

BankWork bank_work(const ModelConfig& config, const Work& expert, std::span<const ExpertShare> shares,
                   const GroupLoads& loads) {
  BankWork work;
  const auto part = [&](const ExpertShare& s, double experts, double pairs) {
    const double columns = static_cast<double>(s.columns()) / config.moe.inter;
    return Work{columns * experts * expert.bytes, columns * pairs * expert.flops};
  };
  for (const ExpertShare& s : shares) {
    const size_t g = static_cast<size_t>(s.group);
    work.mean.push_back(part(s, loads.experts[g], loads.pairs[g]));
    work.most.push_back(part(s, loads.experts[g] + loads.more_experts, loads.pairs[g] + loads.more_pairs));
  }
  return work;
}

}  // namespace kt
