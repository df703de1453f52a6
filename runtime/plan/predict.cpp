#include "runtime/plan/predict.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <numeric>

#include "runtime/base/error.h"
#include "runtime/base/units.h"
#include "runtime/comm/cores.h"

namespace kt {
namespace {

// How long a rank keeps a core that others wait for, about: the kernel's slice.
constexpr double kSlice = 3e-3;

size_t at(int i) { return static_cast<size_t>(i); }

Machine described(const Hardware& hardware) {
  Machine machine;
  for (int c = 0; c < hardware.cores; ++c)
    machine.cpus.push_back({.id = c, .core = c, .numa_node = c * hardware.numa_nodes / hardware.cores});
  return machine;
}

// Threads of each rank over cores of its machine, as the ranks would share these out.
std::vector<double> parts_of_ranks(const RunConfig& run, const Hardware& hardware, const Deployment& d) {
  const Topology& t = d.topology;
  const Machine machine = described(hardware);
  std::vector<int> cpus(at(hardware.cores));
  std::iota(cpus.begin(), cpus.end(), 0);
  const std::vector<int> idle = ranks_without_experts(d.model.config, t);
  const auto in = [](const std::vector<int>& list, int r) {
    return std::find(list.begin(), list.end(), r) != list.end();
  };
  std::map<int, std::vector<CoreUser>> users;
  for (int r = 0; r < t.world; ++r)
    users[t.node_of[at(r)]].push_back({.rank = r,
                                       .trunk = in(t.trunk, r) && !d.gpu_trunk,
                                       .expert = in(t.experts, r),
                                       .idle = in(idle, r),
                                       .cpus = cpus});
  std::vector<double> part(at(t.world), 0.0);
  for (const auto& [node, here] : users) {
    const CoreRequest request{.trunk_threads = run.trunk_threads,
                              .kt_cpuinfer = run.kt_cpuinfer,
                              .kt_numa_nodes = run.kt_numa_nodes,
                              .threads_per_core = run.threads_per_core};
    const std::vector<CorePlan> plans = share_cores(machine, here, request);
    for (size_t i = 0; i < here.size(); ++i)
      if (here[i].trunk || (here[i].expert && !here[i].idle))
        part[at(here[i].rank)] = std::min(1.0, static_cast<double>(plans[i].threads) / hardware.cores);
  }
  return part;
}

void require_rates(const Hardware& h, bool gpu, bool network) {
  const std::pair<const char*, double> needed[] = {
      {"memory-bandwidth-gbs", h.memory_bandwidth_gbs},     {"cpu-tflops", h.cpu_tflops},
      {"gpu-bandwidth-gbs", gpu ? h.gpu_bandwidth_gbs : 1}, {"gpu-tflops", gpu ? h.gpu_tflops : 1},
      {"gpu-link-gbs", gpu ? h.gpu_link_gbs : 1},           {"network-gbs", network ? h.network_gbs : 1},
  };
  std::string missing;
  for (const auto& [key, value] : needed)
    if (value <= 0) missing += fmt::format("{}{}", missing.empty() ? "" : ", ", key);
  if (!missing.empty())
    fail(kExitUsage, "{}: not known: {}\nname hardware that has them, such as those of configs/hardware", h.name,
         missing);
}

bool alike(const Chances& a, const Chances& b) { return &a == &b || a == b; }

PassWork::Layer moe_layer(const Twin& twin, const Chances& chances, double rows) {
  const int groups = twin.shares.front().groups;
  const GroupLoads loads = loads_of_groups(chances, groups, rows);
  const ModelConfig& c = twin.cost.config;
  return {.count = 1,
          .banks = bank_work(c, twin.cost.expert, twin.shares, loads),
          .messages = messages_of_layer(c, twin.topology, twin.cost.limits.wire, loads, rows),
          .imbalance = imbalance(loads),
          .cold = {loads.wanted * twin.cost.expert.bytes,
                   std::accumulate(loads.pairs.begin(), loads.pairs.end(), 0.0) * twin.cost.expert.flops}};
}

PassWork pass_work(const Twin& twin, const Pass& pass) {
  const PassCost& cost = twin.cost;
  const ModelConfig& c = cost.config;
  PassWork w{.pass = pass,
             .layerwise = cost.threshold > 0 && pass.rows >= cost.threshold,
             .trunk = cost.trunk(pass),
             .shared = cost.shared(pass.rows),
             .layers = static_cast<double>(c.layers.size()),
             .moe_layers = cost.moe_layers};
  if (cost.trunks > 1) {
    w.reductions = 2 * w.layers;
    w.reduced_bytes = w.reductions * pass.rows * c.hidden * (twin.gpu ? 2 : 8);
  }
  Chances previous;
  for (size_t l = 0; l < c.layers.size(); ++l) {
    if (c.layers[l].ffn != Ffn::moe) continue;
    Chances cold = twin.chances[twin.chances.size() == 1 ? 0 : l], hot(cold.size(), 0.0);
    for (const int32_t e : twin.hot.empty() ? std::vector<int32_t>() : twin.hot[l]) std::swap(hot[at(e)], cold[at(e)]);
    const GroupLoads of_hot = loads_of_groups(hot, 1, pass.rows);
    w.shared += 1 / cost.trunks * Work{of_hot.wanted * cost.hot_expert.bytes, of_hot.pairs[0] * cost.expert.flops};
    if (!w.moe.empty() && alike(cold, previous))
      ++w.moe.back().count;
    else
      w.moe.push_back(moe_layer(twin, cold, pass.rows));
    previous = std::move(cold);
  }
  return w;
}

// Reading and multiplying, which kernels do not quite do side by side.
double seconds(const Work& work, const Rates& rates, double apart) {
  const double reading = work.bytes / rates.bytes, multiplying = rates.flops > 0 ? work.flops / rates.flops : 0.0;
  return std::max(reading, multiplying) + std::min(apart, 1.0) * std::min(reading, multiplying);
}

// What the ranks of one host do in a MoE layer.
struct HostLoad {
  std::vector<double> alone, part;
  double bytes = 0;
};

// Of a host's ranks those of one group, the one with most to do, have the most that it may have, the others the
// mean.
std::map<int, HostLoad> loads_of_hosts(const Twin& twin, const BankWork& banks,
                                       const std::function<double(const Work&, double part)>& seconds_of) {
  std::map<int, int> fullest;  // group, by host
  const Topology& t = twin.topology;
  const auto host_of = [&](size_t i) { return twin.host_of(t.experts[i]); };
  std::map<int, double> largest;
  for (size_t i = 0; i < banks.mean.size(); ++i)
    if (double& most = largest[host_of(i)]; banks.most[i].bytes > most)
      most = banks.most[i].bytes, fullest[host_of(i)] = twin.shares[i].group;
  std::map<int, HostLoad> loads;
  for (size_t i = 0; i < banks.mean.size(); ++i) {
    const double part = twin.part[at(t.experts[i])];
    if (part <= 0 || banks.mean[i].bytes <= 0) continue;
    HostLoad& load = loads[host_of(i)];
    load.alone.push_back(seconds_of(twin.shares[i].group == fullest[host_of(i)] ? banks.most[i] : banks.mean[i], part));
    load.part.push_back(part);
    load.bytes += banks.mean[i].bytes;
  }
  return loads;
}

void add_pass(StepTime& sum, const PassWork& w, const Twin& twin, const CostFactors& f) {
  const Topology& t = twin.topology;
  const Hardware& h = twin.hardware;
  const auto slowed = [&](const Rates& r) { return Rates{r.bytes * f.memory, r.flops * f.compute}; };
  const auto rates = [&](double part) { return slowed(part * cpu_rates(h)); };
  const auto of_bank = [&](const Work& work, double part) { return seconds(work, rates(part), f.apart); };
  const double trunk_part = twin.part[at(t.trunk.front())];
  const Rates trunk_rates = twin.gpu ? slowed(gpu_rates(h)) : rates(trunk_part);
  Hardware moving = h;
  moving.memory_bandwidth_gbs *= f.memory * (twin.gpu ? 1 : trunk_part);

  const double link = twin.gpu ? h.gpu_link_gbs * kGiga : moving.memory_bandwidth_gbs * kGiga;
  StepTime time{.trunk = seconds(w.trunk, trunk_rates, f.apart) +
                         w.reduced_bytes * 2 * (twin.cost.trunks - 1) / twin.cost.trunks / link,
                .shared = seconds(w.shared, trunk_rates, f.apart),
                .messages = w.reductions * (twin.cost.trunks - 1) * f.message_us * 1e-6,
                .overhead = w.layers * f.layer_us * 1e-6};
  double total = time.trunk + time.messages + time.overhead;
  const double shared = w.moe_layers > 0 ? time.shared / w.moe_layers : 0;
  const bool trunk_has_bank = std::find(t.experts.begin(), t.experts.end(), t.trunk.front()) != t.experts.end();
  for (const PassWork::Layer& layer : w.moe) {
    time.imbalance += layer.count * layer.imbalance / w.moe_layers;
    if (w.layerwise) {
      const double reading = layer.cold.bytes / twin.cost.trunks / link;
      const double computing = seconds(1 / twin.cost.trunks * layer.cold, trunk_rates, f.apart);
      time.experts += layer.count * std::max(reading, computing);
      total += layer.count * std::max(reading, shared + computing);
      continue;
    }
    const double moved = seconds_of_messages(layer.messages, moving) -
                         (layer.messages.far > 0 && h.network_gbs > 0 ? 2e-6 * h.network_latency_us : 0);
    const double said = (layer.messages.near + layer.messages.far) * f.message_us * 1e-6 +
                        (layer.messages.far > 0 ? 2e-6 * h.network_latency_us : 0);
    double experts = 0, bytes = 0;
    for (auto& [host, load] : loads_of_hosts(twin, layer.banks, of_bank)) {
      const double parts = std::accumulate(load.part.begin(), load.part.end(), 0.0);
      const bool here = twin.host_of(t.trunk.front()) == host;
      const bool in_turn = here && !trunk_has_bank && !twin.gpu && parts + trunk_part > 1;  // on the same cores
      experts = std::max(experts, shared_seconds(load.alone, load.part) + (in_turn ? shared : 0));
      bytes = std::max(bytes, load.bytes);
    }
    time.experts += layer.count * experts;
    time.expert_bytes += layer.count * bytes;
    time.dispatch += layer.count * moved, time.messages += layer.count * said;
    time.out_bytes += layer.count * (layer.messages.near_out + layer.messages.far_out);
    time.back_bytes += layer.count * (layer.messages.near_back + layer.messages.far_back);
    const double away = experts + moved + said;
    total += layer.count * (trunk_has_bank ? shared + away : std::max(shared, away));
  }
  if (w.moe.empty()) total += time.shared;
  time.total = total;

  sum.trunk += time.trunk, sum.shared += time.shared, sum.experts += time.experts, sum.dispatch += time.dispatch;
  sum.messages += time.messages, sum.overhead += time.overhead, sum.total += time.total;
  sum.imbalance += time.imbalance * time.total;
  sum.expert_bytes += time.expert_bytes, sum.out_bytes += time.out_bytes, sum.back_bytes += time.back_bytes;
}

}  // namespace

Twin make_twin(const Cluster& cluster, const Hardware& hardware, const std::vector<Chances>& chances) {
  const Deployment& d = cluster.deployment;
  require_rates(hardware, d.gpu_trunk, hardware.nodes > 1);
  Twin twin{.hardware = hardware,
            .cost = pass_cost(cluster.run, d),
            .topology = d.topology,
            .hot = place_hot(cluster.run, d.model.config),
            .chances = chances,
            .part = parts_of_ranks(cluster.run, hardware, d),
            .shares = expert_shares(d.model.config.moe.inter, d.topology.group_of, d.topology.replicated),
            .chunk = engine_config(cluster.run, d.model.config).chunked_prefill_size,
            .gpu = d.gpu_trunk};
  return twin;
}

std::vector<PassWork> decode_work(const Twin& twin, int context, int batch) {
  const double rows = batch;
  return {pass_work(twin, {.rows = rows, .logit_rows = rows, .sequences = rows, .keys = 1.0 * context})};
}

std::vector<PassWork> prefill_work(const Twin& twin, int prompt, int batch) {
  std::vector<PassWork> passes;
  const int64_t all = int64_t{prompt} * batch;
  for (int64_t done = 0; done < all; done += twin.chunk) {
    const double rows = static_cast<double>(std::min<int64_t>(twin.chunk, all - done));
    // Short prompts share a step; of a long one it sees what was before.
    const bool whole = prompt <= twin.chunk;
    const double sequences = whole ? rows / prompt : 1;
    const double before = whole ? 0 : static_cast<double>(done % prompt);
    passes.push_back(pass_work(twin, {.rows = rows,
                                      .logit_rows = whole ? sequences : (before + rows >= prompt ? 1.0 : 0.0),
                                      .sequences = sequences,
                                      .keys = whole ? prompt / 2.0 : before + rows / 2}));
  }
  return passes;
}

StepTime time_of(const std::vector<PassWork>& passes, const Twin& twin, const CostFactors& factors) {
  StepTime sum;
  for (const PassWork& w : passes) add_pass(sum, w, twin, factors);
  if (sum.total > 0) sum.imbalance /= sum.total;
  return sum;
}

const char* StepTime::bound() const {
  const std::pair<double, const char*> all[] = {{trunk, "trunk"},       {shared, "shared"},     {experts, "experts"},
                                                {dispatch, "dispatch"}, {messages, "messages"}, {overhead, "overhead"}};
  return std::max_element(std::begin(all), std::end(all))->second;
}

// In turn on as many places as there are, the longest first; ranks that take longer than a slice are taken in turns, so
// that the cores are busy to the end.
double shared_seconds(const std::vector<double>& alone, const std::vector<double>& part) {
  if (alone.empty()) return 0;
  const double longest = *std::max_element(alone.begin(), alone.end());
  const double parts = std::accumulate(part.begin(), part.end(), 0.0);
  if (parts <= 1 + 1e-9) return longest;
  const double whole = std::inner_product(alone.begin(), alone.end(), part.begin(), 0.0);
  const auto places = static_cast<size_t>(std::max(1.0, std::floor(static_cast<double>(part.size()) / parts + 1e-9)));
  std::vector<double> sorted = alone, busy(places, 0.0);
  std::sort(sorted.begin(), sorted.end(), std::greater<>());
  for (const double a : sorted) *std::min_element(busy.begin(), busy.end()) += a;
  return std::min(*std::max_element(busy.begin(), busy.end()), std::max(longest, whole) + kSlice);
}

}  // namespace kt
