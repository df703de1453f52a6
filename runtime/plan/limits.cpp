#include "runtime/plan/limits.h"

#include <algorithm>

#include "runtime/base/error.h"
#include "runtime/base/units.h"
#include "runtime/plan/cost.h"

namespace kt {
namespace {

constexpr int kPrompts[] = {64, 2048, 8192, 32768};

// A pass on this hardware, at the rates that it is described with.
struct Model {
  PassCost cost;
  const Deployment& deployment;
  const Hardware& hardware;
  double trunks_here = 1;  // on machine 0

  bool gpu() const { return deployment.gpu_trunk; }
  double hosts() const { return hardware.hosts(); }
  // Of a trunk rank: on the CPU the ranks of a machine share it, and one of them reaches one NUMA node's memory.
  Rates trunk_rates() const {
    return gpu() ? gpu_rates(hardware) : std::min(1.0 / hardware.numa_nodes, 1.0 / trunks_here) * cpu_rates(hardware);
  }
  double link_rate() const { return (gpu() ? hardware.gpu_link_gbs : hardware.memory_bandwidth_gbs / 2) * kGiga; }
};

Model make_model(const RunConfig& run, const Deployment& d, const Hardware& hardware) {
  const auto here = std::count_if(d.topology.trunk.begin(), d.topology.trunk.end(),
                                  [&](int r) { return d.topology.node_of[static_cast<size_t>(r)] == 0; });
  return {.cost = pass_cost(run, d),
          .deployment = d,
          .hardware = hardware,
          .trunks_here = std::max(1.0, static_cast<double>(here))};
}

// Seconds of each part of a pass.
struct Parts {
  double trunk = 0, shared = 0, experts = 0, network = 0, link = 0;
  bool layerwise = false;

  double total() const {
    return layerwise ? std::max(link, trunk + shared + experts) : trunk + std::max(shared, experts + network);
  }
  std::string longest() const {
    const std::pair<double, const char*> all[] = {
        {trunk, "trunk"}, {shared, "shared"}, {experts, "experts"}, {network, "network"}, {link, "link"}};
    return std::max_element(std::begin(all), std::end(all))->second;
  }
  Parts& operator+=(const Parts& p) {
    trunk += p.trunk, shared += p.shared, experts += p.experts, network += p.network, link += p.link;
    return *this;
  }
};

double all_reduce_seconds(const Model& m, double rows) {
  if (!m.gpu() || m.cost.trunks < 2) return 0;
  const double sublayers = 2.0 * static_cast<double>(m.cost.config.layers.size());
  return sublayers * rows * m.cost.config.hidden * 2 * 2 * (m.cost.trunks - 1) / m.cost.trunks / m.link_rate();
}

double network_seconds(const Model& m, double rows) {
  if (m.hardware.nodes < 2 || m.hardware.network_gbs <= 0) return 0;
  const Topology& topology = m.deployment.topology;
  const int groups = expert_shares(m.cost.config.moe.inter, topology.group_of).front().groups;
  const Messages messages = messages_of_layer(m.cost.config, topology, m.cost.limits.wire,
                                              loads_of_groups(uniform_chances(m.cost.config.moe), groups, rows), rows);
  if (messages.far <= 0) return 0;
  return m.cost.moe_layers * ((messages.far_out + messages.far_back) / (m.hardware.network_gbs * kGiga) +
                              2e-6 * m.hardware.network_latency_us);
}

Parts time_of(const Model& m, const Pass& pass) {
  const PassCost& c = m.cost;
  const double rows = pass.rows;
  Parts t{.layerwise = c.threshold > 0 && rows >= c.threshold};
  t.trunk = all_reduce_seconds(m, rows) + seconds(c.trunk(pass), m.trunk_rates());

  const double read = c.moe_layers * c.experts_read(rows), cold = 1 - c.hot;
  const double pairs = c.moe_layers * c.config.moe.top_k * rows;
  const Work shared = c.shared(rows) + c.hot / c.trunks * Work{read * c.hot_expert.bytes, pairs * c.expert.flops};
  const Work experts = cold * Work{read * c.expert.bytes, pairs * c.expert.flops};
  t.shared = seconds(shared, m.trunk_rates());
  if (t.layerwise) {
    t.link =
        std::max(experts.bytes / c.trunks / m.link_rate(), experts.bytes / m.hosts() / cpu_rates(m.hardware).bytes);
    t.experts = seconds(1 / c.trunks * experts, m.trunk_rates());
    return t;
  }
  const Work host = 1 / m.hosts() * experts + (m.gpu() ? 0 : m.trunks_here) * shared;
  t.experts = seconds(host, cpu_rates(m.hardware));
  t.network = network_seconds(m, rows);
  return t;
}

RateLimit prefill_limit(const Model& m, int prompt, int chunk) {
  Parts sum;
  double time = 0;
  for (int done = 0; done < prompt; done += chunk) {
    const int rows = std::min(chunk, prompt - done);
    const Parts t = time_of(m, {.rows = static_cast<double>(rows),
                                .logit_rows = done + rows == prompt ? 1.0 : 0.0,
                                .keys = done + rows / 2.0});
    sum += t;
    time += t.total();
  }
  return {.tokens = prompt, .tokens_per_s = prompt / time, .bound = sum.longest()};
}

RateLimit decode_limit(const Model& m, int context, int batch) {
  const double rows = batch;
  const Parts t = time_of(m, {.rows = rows, .logit_rows = rows, .sequences = rows, .keys = 1.0 * context});
  return {.tokens = context, .batch = batch, .tokens_per_s = batch / t.total(), .bound = t.longest()};
}

std::string missing_keys(const Hardware& h, bool gpu) {
  std::string keys;
  const auto need = [&](const char* key, double value) {
    if (value <= 0) keys += fmt::format("{}{}", keys.empty() ? "" : ", ", key);
  };
  need("memory-bandwidth-gbs", h.memory_bandwidth_gbs);
  need("cpu-tflops", h.cpu_tflops);
  if (gpu) need("gpu-bandwidth-gbs", h.gpu_bandwidth_gbs), need("gpu-tflops", h.gpu_tflops);
  if (gpu) need("gpu-link-gbs", h.gpu_link_gbs);
  if (h.nodes > 1) need("network-gbs", h.network_gbs);
  return keys;
}

}  // namespace

RateLimits rate_limits(const RunConfig& run, const Deployment& deployment, const Hardware& hardware) {
  RateLimits limits{.missing = missing_keys(hardware, deployment.gpu_trunk)};
  if (!limits.missing.empty()) return limits;
  const Model m = make_model(run, deployment, hardware);
  const EngineConfig engine = engine_config(run, deployment.model.config);
  const int longest = longest_sequence(engine);
  for (const int prompt : kPrompts) {
    if (prompt > longest) break;
    limits.prefill.push_back(prefill_limit(m, prompt, engine.chunked_prefill_size));
    limits.decode.push_back(decode_limit(m, prompt, 1));
  }
  const int batch = engine.max_running_requests;
  limits.decode.push_back(decode_limit(m, std::max(1, engine.kv_blocks * kBlockTokens / batch), batch));
  return limits;
}

}  // namespace kt
