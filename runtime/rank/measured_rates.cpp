#include "runtime/rank/measured_rates.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <sstream>

#include "runtime/comm/machine.h"
#include "runtime/rank/machine_limits.h"

namespace kt {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kBytesOfMachine = size_t{1} << 30, kMessageBytes = size_t{8} << 20;
constexpr int kEchoes = 50, kMessages = 8;

struct Network {
  double gbs = 0, latency_us = 0;
};

// Rank 0 and `other` pass messages; what rank 0 sees.
Network measure_network(Transport& transport, int other) {
  const bool asks = transport.rank() == 0;
  const int peer = asks ? other : 0;
  const std::vector<std::byte> small(1), large(kMessageBytes);
  std::vector<std::byte> inbox;
  const auto pass = [&](std::span<const std::byte> bytes) {
    transport.send(peer, Tag::control, bytes);
    transport.finish_sends();
  };
  const auto seconds_of = [&](int times, const std::vector<std::byte>& bytes) {
    const Clock::time_point begin = Clock::now();
    for (int i = 0; i < times; ++i) {
      if (asks) pass(bytes);
      transport.receive(peer, Tag::control, inbox);
      if (!asks) pass(small);
    }
    return std::chrono::duration<double>(Clock::now() - begin).count();
  };
  seconds_of(kEchoes, small);  // connects
  const double echo = seconds_of(kEchoes, small) / kEchoes, message = seconds_of(kMessages, large) / kMessages;
  return {static_cast<double>(kMessageBytes) / std::max(1e-9, message - echo) / 1e9, echo / 2 * 1e6};
}

}  // namespace

Hardware measure_rates(Transport& transport, const Ops& ops) {
  const std::vector<int> nodes = transport.nodes();
  const auto here = std::count(nodes.begin(), nodes.end(), transport.node());
  const Machine machine = read_machine();
  const int cores = std::min(machine.cores(), static_cast<int>(here) * core_count(machine, allowed_cpus()));
  ThreadPool pool(std::max(1, cores / static_cast<int>(here)), {});
  const Buffer memory(kBytesOfMachine / static_cast<size_t>(here), -1, pool);
  transport.barrier();
  const double gbs = measure_dram(pool, ops, memory), gflops = measure_peak(pool, ops, false);

  Network network;
  const auto other = std::find_if(nodes.begin(), nodes.end(), [&](int node) { return node != nodes.front(); });
  const int far = static_cast<int>(other - nodes.begin());
  if (other != nodes.end() && (transport.rank() == 0 || transport.rank() == far))
    network = measure_network(transport, far);

  Hardware slowest;
  std::map<int, Hardware> machines;
  const std::vector<std::string> all =
      all_gather(transport, fmt::format("{} {} {} {}", gbs, gflops, network.gbs, network.latency_us));
  for (size_t r = 0; r < all.size(); ++r) {
    std::istringstream words(all[r]);
    double rank_gbs = 0, rank_gflops = 0;
    words >> rank_gbs >> rank_gflops;
    machines[nodes[r]].memory_bandwidth_gbs += rank_gbs;
    machines[nodes[r]].cpu_tflops += rank_gflops / 1e3;
    if (r == 0) words >> slowest.network_gbs >> slowest.network_latency_us;
  }
  const auto least = [&](double Hardware::*rate) {
    return std::min_element(machines.begin(), machines.end(),
                            [&](const auto& a, const auto& b) { return a.second.*rate < b.second.*rate; })
               ->second.*
           rate;
  };
  slowest.memory_bandwidth_gbs = least(&Hardware::memory_bandwidth_gbs);
  slowest.cpu_tflops = least(&Hardware::cpu_tflops);
  return slowest;
}

}  // namespace kt
