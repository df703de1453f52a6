#include "runtime/plan/limits.h"

#include <algorithm>
#include <cmath>

#include "runtime/base/error.h"

namespace kt {
namespace {

constexpr int kPrompts[] = {64, 2048, 8192, 32768};
constexpr double kGiga = 1e9, kTera = 1e12;

// Seconds for reading bytes and multiplying, side by side.
double seconds(double bytes, double bytes_per_s, double flops, double flops_per_s) {
  return std::max(bytes / bytes_per_s, flops_per_s > 0 ? flops / flops_per_s : 0.0);
}

struct Pass {
  double rows = 0, logit_rows = 0, sequences = 1;
  double keys = 0;  // that a row sees on average
};

// The numbers of a pass that do not depend on its rows. Bytes and weights "of a rank" are those of trunk rank 0.
struct Model {
  const ModelConfig& config;
  const Hardware& hardware;
  TrunkLimits limits;
  bool gpu = false;
  double trunks = 1, trunks_here = 1;  // here: on machine 0
  double machines = 1, moe_layers = 0;
  double trunk_bytes = 0, trunk_weights = 0, head_weights = 0;        // of a rank, without the shared expert
  double shared_bytes = 0, shared_weights = 0;                        // of a rank
  double expert_bytes = 0, hot_expert_bytes = 0, expert_weights = 0;  // of one routed expert
  double hot = 0;                                                     // share of all experts
  double state_bytes = 0;                                             // of a sequence and rank
  int threshold = 0;                                                  // rows from which a pass is layerwise

  // Of a trunk rank: on the CPU the ranks of a machine share it, and one of them reaches one NUMA node's memory.
  double part_of_machine() const { return std::min(1.0 / hardware.numa_nodes, 1.0 / trunks_here); }
  double trunk_rate() const {
    return (gpu ? hardware.gpu_bandwidth_gbs : hardware.memory_bandwidth_gbs * part_of_machine()) * kGiga;
  }
  double trunk_flops() const { return (gpu ? hardware.gpu_tflops : hardware.cpu_tflops * part_of_machine()) * kTera; }
  double memory_rate() const { return hardware.memory_bandwidth_gbs * kGiga; }
  double link_rate() const { return (gpu ? hardware.gpu_link_gbs : hardware.memory_bandwidth_gbs / 2) * kGiga; }

  double experts_read(double rows) const {  // of one layer
    const double e = config.moe.experts;
    return e > 0 ? e * (1 - std::pow(1 - config.moe.top_k / e, rows)) : 0;
  }
};

Model make_model(const RunConfig& run, const Deployment& d, const Hardware& hardware) {
  const ModelConfig& c = d.model.config;
  const EngineConfig engine = engine_config(run, c);
  const TrunkShare& share = d.shares.front();
  Model m{.config = c,
          .hardware = hardware,
          .limits = trunk_limits(run, engine, c, d.experts, d.topology),
          .gpu = d.gpu_trunk,
          .trunks = static_cast<double>(d.shares.size()),
          .machines = static_cast<double>(hardware.nodes),
          .moe_layers = static_cast<double>(moe_layer_count(c))};
  m.trunks_here = static_cast<double>(std::count_if(d.topology.trunk.begin(), d.topology.trunk.end(), [&](int r) {
    return d.topology.node_of[static_cast<size_t>(r)] == 0;
  }));
  m.trunks_here = std::max(1.0, m.trunks_here);

  const Format trunk_format = c.quant.stored == Stored::fp8_block ? Format::FP8 : Format::BF16;
  m.shared_weights = m.moe_layers * 3.0 * c.hidden * share.shared.size();
  m.shared_bytes = m.moe_layers * 3 * static_cast<double>(stored_bytes(trunk_format, c.hidden, share.shared.size()));
  m.trunk_bytes = static_cast<double>(d.trunk.front().resident) - m.shared_bytes;
  m.head_weights = static_cast<double>(c.hidden) * share.vocab.size();
  m.trunk_weights = static_cast<double>(d.trunk.front().elements) - m.shared_weights - m.head_weights;
  if (c.moe.experts) {
    m.expert_bytes = static_cast<double>(expert_bytes(c, d.experts, c.moe.inter));
    m.hot_expert_bytes = static_cast<double>(expert_bytes(c, m.limits.hot_format, c.moe.inter));
    m.expert_weights = 3.0 * c.hidden * c.moe.inter;
    m.hot = static_cast<double>(m.limits.hot_experts) / (m.moe_layers * c.moe.experts);
  }
  m.threshold = std::max(0, run.prefill_threshold());
  const StateCache::Bytes one = StateCache::bytes(c, share, {.slots = 1});
  m.state_bytes = static_cast<double>(one.states);
  return m;
}

// Keys that attention reads of `keys` that are there.
double visible(const ModelConfig& c, double keys) {
  return c.mla.indexer ? std::min<double>(keys, c.mla.indexer->top_k) : keys;
}

// Bytes of keys and values that one row's attention reads, and multiplications (times 2), in all layers on trunk rank
// 0.
struct Attention {
  double bytes = 0, flops = 0;
};
Attention attention(const Model& m, const TrunkShare& share, double keys) {
  const ModelConfig& c = m.config;
  const double seen = visible(c, keys), heads = share.heads.size();
  Attention a;
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
  if (!m.gpu || m.trunks < 2) return 0;
  const double sublayers = 2.0 * static_cast<double>(m.config.layers.size());
  return sublayers * rows * m.config.hidden * 2 * 2 * (m.trunks - 1) / m.trunks / m.link_rate();
}

// Each of a row's experts is on any machine, equally likely.
double network_seconds(const Model& m, double rows) {
  if (m.machines < 2 || m.hardware.network_gbs <= 0) return 0;
  const double others = (m.machines - 1) * (1 - std::pow(1 - 1 / m.machines, m.config.moe.top_k));
  const double bytes =
      rows * others * m.config.hidden * static_cast<double>(sizeof(uint16_t) + wire_bytes(m.limits.wire));
  return m.moe_layers * (bytes / (m.hardware.network_gbs * kGiga) + 2e-6 * m.hardware.network_latency_us);
}

Parts time_of(const Model& m, const TrunkShare& share, const Pass& pass) {
  const double rows = pass.rows;
  const Attention a = attention(m, share, pass.keys);
  Parts t{.layerwise = m.threshold > 0 && rows >= m.threshold};

  t.trunk =
      all_reduce_seconds(m, rows) +
      seconds(m.trunk_bytes + pass.sequences * (a.bytes + 2 * m.state_bytes), m.trunk_rate(),
              2 * m.trunk_weights * rows + 2 * m.head_weights * pass.logit_rows + a.flops * rows, m.trunk_flops());

  const double read = m.moe_layers * m.experts_read(rows), hot = m.hot, cold = 1 - m.hot;
  const double expert_flops = 2 * m.expert_weights * m.moe_layers * m.config.moe.top_k * rows;
  const double shared_bytes = m.shared_bytes + hot * read * m.hot_expert_bytes / m.trunks;
  const double shared_flops = 2 * m.shared_weights * rows + hot * expert_flops / m.trunks;
  t.shared = seconds(shared_bytes, m.trunk_rate(), shared_flops, m.trunk_flops());

  const double cold_bytes = cold * read * m.expert_bytes, cold_flops = cold * expert_flops;
  if (t.layerwise) {
    t.link = std::max(cold_bytes / m.trunks / m.link_rate(), cold_bytes / m.machines / m.memory_rate());
    t.experts = seconds(cold_bytes / m.trunks, m.trunk_rate(), cold_flops / m.trunks, m.trunk_flops());
    return t;
  }
  const double machine_bytes = cold_bytes / m.machines + (m.gpu ? 0 : m.trunks_here * shared_bytes),
               machine_flops = cold_flops / m.machines + (m.gpu ? 0 : m.trunks_here * shared_flops);
  t.experts = seconds(machine_bytes, m.memory_rate(), machine_flops, m.hardware.cpu_tflops * kTera);
  t.network = network_seconds(m, rows);
  return t;
}

RateLimit prefill_limit(const Model& m, const TrunkShare& share, int prompt, int chunk) {
  Parts sum;
  double time = 0;
  for (int done = 0; done < prompt; done += chunk) {
    const int rows = std::min(chunk, prompt - done);
    const Parts t = time_of(m, share,
                            {.rows = static_cast<double>(rows),
                             .logit_rows = done + rows == prompt ? 1.0 : 0.0,
                             .keys = done + rows / 2.0});
    sum += t;
    time += t.total();
  }
  return {.tokens = prompt, .tokens_per_s = prompt / time, .bound = sum.longest()};
}

RateLimit decode_limit(const Model& m, const TrunkShare& share, int context, int batch) {
  const double rows = batch;
  const Parts t = time_of(m, share, {.rows = rows, .logit_rows = rows, .sequences = rows, .keys = 1.0 * context});
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
  const TrunkShare& share = deployment.shares.front();
  const EngineConfig engine = engine_config(run, deployment.model.config);
  const int longest = longest_sequence(engine);
  for (const int prompt : kPrompts) {
    if (prompt > longest) break;
    limits.prefill.push_back(prefill_limit(m, share, prompt, engine.chunked_prefill_size));
    limits.decode.push_back(decode_limit(m, share, prompt, 1));
  }
  const int batch = engine.max_running_requests;
  limits.decode.push_back(decode_limit(m, share, std::max(1, engine.kv_blocks * kBlockTokens / batch), batch));
  return limits;
}

}  // namespace kt
