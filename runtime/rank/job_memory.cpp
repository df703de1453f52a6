#include "runtime/rank/job_memory.h"

#include <algorithm>

#include "runtime/base/log.h"
#include "runtime/plan/fit.h"

namespace kt {
namespace {

size_t ram_of(const MemoryPlan& plan, bool gpu_trunk) { return gpu_trunk ? plan.in_memory() : plan.total(); }

size_t memory_of_machine(const std::vector<RankPlan>& ranks, int node, bool gpu_trunk) {
  size_t bytes = 0;
  for (const RankPlan& r : ranks)
    if (r.node == node) bytes += ram_of(r.memory, gpu_trunk);
  return bytes;
}

// What to change so that this machine's ranks fit into `available`, as lines of a message.
std::string memory_advice(const JobRank& job, int node, size_t available) {
  const Deployment deployment = deployment_of(job);
  const Remedies remedies = find_remedies(job.run, job.model(), [&](const RunConfig& changed) {
    return memory_of_machine(plan_ranks(changed, deployment), node, job.gpu_trunk()) <= available;
  });
  return remedies.options.empty() ? "use more machines, or a smaller model" : describe(remedies);
}

// The same for this rank's GPU.
void check_device_memory(const JobRank& job) {
  const size_t needed = job.memory.on_device();
  const auto available = static_cast<size_t>(kShareOfDevice * static_cast<double>(job.device_bytes));
  if (!job.gpu_trunk() || needed <= available) return;
  const Deployment deployment = deployment_of(job);
  RunConfig run = job.run;
  run.max_total_tokens = job.engine.kv_blocks * kBlockTokens;
  const Remedies remedies = find_remedies(run, job.model(), [&](const RunConfig& changed) {
    return plan_ranks(changed, deployment)[static_cast<size_t>(job.rank())].memory.on_device() <= available;
  });
  fail(kExitUsage, "memory: rank {} needs {:.1f} GB of its GPU, {:.1f} GB of it are available\nthis rank: {}\n{}",
       job.rank(), static_cast<double>(needed) / 1e9, static_cast<double>(available) / 1e9, describe(job.memory),
       remedies.options.empty() ? "use more trunk ranks with a GPU each, or a smaller model" : describe(remedies));
}

}  // namespace

Deployment deployment_of(const JobRank& job) {
  Deployment deployment =
      make_deployment(*job.loaded, *job.checkpoint, job.topology, job.experts->source.format, trunk_method(job.run));
  deployment.trunk_threads = deployment.expert_threads = job.cores.threads;
  deployment.gpu_trunk = job.gpu_trunk();
  deployment.running = true;
  return deployment;
}

std::vector<size_t> free_memory(const JobRank& job) {
  const size_t mine = job.gpu_trunk() ? job.device_bytes : available_memory() + job.kept_bytes;
  const std::vector<std::string> of_rank = all_gather(job.transport, std::to_string(mine));
  std::vector<size_t> available;
  if (job.gpu_trunk()) {
    for (const int rank : job.topology.trunk) available.push_back(std::stoull(of_rank[static_cast<size_t>(rank)]));
    return available;
  }
  for (int r = 0; r < job.topology.world; ++r) {
    const auto node = static_cast<size_t>(job.topology.node_of[r]);
    if (node >= available.size()) available.resize(node + 1, 0);
    if (!available[node]) available[node] = std::stoull(of_rank[r]);
  }
  return available;
}

void size_kv_cache(JobRank& job, const std::vector<size_t>& available) {
  if (!job.run.mem_fraction_static) return;
  job.engine.kv_blocks = kv_blocks_of_fraction(job.run, deployment_of(job), available);
  if (!job.engine.kv_blocks)
    fail(kExitUsage,
         "mem-fraction-static {:g}: that share of the {:.1f} GB that are free on {} 0 has no room for weights and a KV "
         "cache\ntry a larger share, or leave it out",
         *job.run.mem_fraction_static, static_cast<double>(available[0]) / 1e9,
         job.gpu_trunk() ? "the GPU of trunk rank" : "machine");
  if (job.rank() == 0)
    log("mem-fraction-static {:g}: {} tokens of KV cache", *job.run.mem_fraction_static,
        job.engine.kv_blocks * kBlockTokens);
}

void check_memory(JobRank& job) {
  for (const std::string& total : all_gather(job.transport, std::to_string(ram_of(job.memory, job.gpu_trunk()))))
    job.memory_of_rank.push_back(std::stoull(total));
  const int node = job.topology.node_of[job.rank()];
  size_t machine = 0;
  for (int r = 0; r < job.topology.world; ++r)
    if (job.topology.node_of[r] == node) machine += job.memory_of_rank[r];
  const size_t available = available_memory() + job.kept_bytes;
  const std::vector<int>& nodes = job.topology.node_of;
  if (std::find(nodes.begin(), nodes.end(), node) - nodes.begin() == job.rank())
    log("memory of machine {}: {:.1f} of {:.1f} GB", node, static_cast<double>(machine) / 1e9,
        static_cast<double>(available) / 1e9);
  if (machine > available)
    fail(kExitUsage, "memory: the ranks of machine {} need {:.1f} GB, {:.1f} GB are available\nthis rank: {}\n{}", node,
         static_cast<double>(machine) / 1e9, static_cast<double>(available) / 1e9, describe(job.memory),
         memory_advice(job, node, available));
  check_device_memory(job);
}

}  // namespace kt
