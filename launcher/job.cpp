#include "launcher/job.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "runtime/base/error.h"
#include "runtime/base/log.h"
#include "runtime/checkpoint/dummy.h"
#include "runtime/model/expert_rank.h"
#include "runtime/model/memory_plan.h"

namespace kt {
namespace {

constexpr int kMaxLogitRows = 256;       // of a step
constexpr int kDefaultKvTokens = 65536;  // without max-total-tokens, when the context is longer

// Runs one phase of the set-up on this rank and returns when it is done on all; false if it failed anywhere. A phase
// either fails on all ranks or talks to other ranks before anything in it can fail.
// The lowest rank that failed says why.
struct Phases {
  Transport& transport;
  int& exit_code;

  bool run(const std::function<void()>& phase) {
    std::string failure;  // exit code, a space, the message
    try {
      phase();
    } catch (const Error& e) {
      failure = fmt::format("{} {}", static_cast<int>(e.exit_code()), e.what());
    } catch (const std::bad_alloc&) {
      failure = fmt::format("{} out of memory", static_cast<int>(kExitTryAgain));
    }
    const std::vector<std::string> failures = all_gather(transport, failure);
    const auto first = std::find_if(failures.begin(), failures.end(), [](const std::string& f) { return !f.empty(); });
    if (first == failures.end()) return true;
    exit_code = std::atoi(first->c_str());
    if (first - failures.begin() == transport.rank())
      fmt::print(stderr, "ktmpi: {}\n", std::string_view(*first).substr(first->find(' ') + 1));
    return false;
  }
};

EngineConfig engine_config(const RunConfig& run, const ModelConfig& model) {
  EngineConfig e;
  e.context_length = run.context_length.value_or(model.max_context);
  if (e.context_length > model.max_context)
    fail(kExitUsage, "context-length {}: the model's config.json allows {}", e.context_length, model.max_context);
  if (run.max_running_requests) e.max_running_requests = *run.max_running_requests;
  if (e.max_running_requests > kMaxLogitRows - kBlockTokens)
    fail(kExitUsage, "max-running-requests {}: at most {}", e.max_running_requests, kMaxLogitRows - kBlockTokens);
  const int tokens =
      run.max_total_tokens.value_or(std::min(kDefaultKvTokens, e.context_length * e.max_running_requests));
  e.kv_blocks = std::max(1, tokens / kBlockTokens);
  if (run.max_queued_requests) e.max_queued_requests = *run.max_queued_requests;
  if (run.chunked_prefill_size) e.chunked_prefill_size = *run.chunked_prefill_size;
  e.enable_mixed_chunk = run.enable_mixed_chunk;
  e.max_decode_stall_ms = run.max_decode_stall_ms;
  e.prefix_cache = !run.disable_radix_cache;
  e.recurrent =
      std::any_of(model.layers.begin(), model.layers.end(), [](LayerSpec l) { return l.mixer == Mixer::delta_net; });
  // Each running request has the state after its prompt and that of its answer; others wait for theirs to come back.
  if (e.recurrent && e.prefix_cache) e.state_snapshots = std::max(8, 2 * e.max_running_requests);
  e.max_logit_rows = kMaxLogitRows;
  e.eos = model.eos;
  return e;
}

// The memory of all ranks of this machine together must be there before any of it is taken.
void check_memory(Transport& transport, const Topology& topology, const MemoryPlan& plan) {
  const std::vector<std::string> plans = all_gather(transport, std::to_string(plan.total()));
  size_t machine = 0;
  for (int r = 0; r < topology.world; ++r)
    if (topology.node_of[r] == topology.node_of[topology.rank]) machine += std::stoull(plans[r]);
  const size_t available = available_memory();
  if (machine > available)
    fail(kExitUsage,
         "memory: the ranks of machine {} need {:.1f} GB, {:.1f} GB are available\n  this rank: {}\n"
         "  lower max-total-tokens, chunked-prefill-size or max-running-requests, or use more machines",
         topology.node_of[topology.rank], static_cast<double>(machine) / 1e9, static_cast<double>(available) / 1e9,
         describe(plan));
}

void require_one_table(Transport& transport, const Ops& ops) {
  const std::vector<std::string> names = all_gather(transport, std::string(ops.name));
  for (size_t r = 1; r < names.size(); ++r)
    if (names[r] != names[0])
      fail(kExitUsage,
           "rank 0 has the kernels {}, rank {} has {}: ranks with different kernels may differ in results\n  set "
           "KTMPI_ISA={} for all",
           names[0], r, names[r], std::min(names[0], names[r]));
}

// ---- the phases ----------------------------------------------------------------------------------------------------

void read_set_up(JobRank& job, const std::function<void()>& front, const EditConfig& edit) {
  const RunConfig& run = job.run;
  job.topology = plan_topology(
      {.tensor_parallel = run.tensor_parallel_size, .experts_per_node = run.kt_threadpool_count.value_or(-1)},
      job.rank(), job.transport.nodes());
  set_log_name(fmt::format("r{} {}", job.rank(), job.topology.role_name()));
  try {
    job.ops = &choose_ops();
  } catch (const std::runtime_error& e) {
    fail(kExitUsage, "{}", e.what());
  }
  job.loaded.emplace(load_model_config(run.model));
  if (edit) edit(*job.loaded);
  const ModelConfig& model = job.model();
  job.engine = engine_config(run, model);
  trunk_share(model, 0, run.tensor_parallel_size);  // the heads divide, also in a world of one
  job.share = trunk_share(model, std::max(0, job.topology.trunk_index()), static_cast<int>(job.topology.trunk.size()));
  job.checkpoint = run.load_format == "dummy" ? dummy_checkpoint({.norm_plus_one = model.norm_plus_one})
                                              : open_checkpoint(run.model);
  job.experts = find_experts(run, *job.loaded, *job.checkpoint);
  if (job.rank() != 0) return;
  if (!job.experts->warning.empty()) log("{}", job.experts->warning);
  for (const std::string& w : run.warnings) log("{}", w);
  front();
}

void place(JobRank& job) {
  require_one_table(job.transport, *job.ops);
  job.limits = {.max_rows = max_step_rows(job.engine), .max_logit_rows = kMaxLogitRows};
  job.cache_limits = {.blocks = job.engine.kv_blocks,
                      .slots = job.engine.max_running_requests,
                      .snapshots = job.engine.state_snapshots};
  if (job.topology.expert_index() >= 0)
    job.columns =
        inter_part(job.model().moe.inter, job.topology.expert_index(), static_cast<int>(job.topology.experts.size()));
  job.cores =
      plan_cores(job.transport, job.topology, {job.run.trunk_threads, job.run.kt_cpuinfer, job.run.kt_numa_nodes});
  for (const std::string& w : job.cores.warnings) log("{}", w);
}

void plan(JobRank& job) {
  const MemoryPlan memory = plan_memory(job.model(), job.topology.trunk_index() >= 0, job.share, job.columns,
                                        job.experts->source.format, job.cache_limits, job.limits, job.share.count);
  log("kernels {}, {} threads{}; memory {}", job.ops->name, job.cores.threads,
      job.cores.cores.empty() ? "" : ", pinned", describe(memory));
  check_memory(job.transport, job.topology, memory);
}

void load(JobRank& job) {
  const int numa_node = job.cores.numa_node;
  job.pool = std::make_unique<ThreadPool>(job.cores.threads, job.cores.cores);
  job.kernels.emplace(*job.ops, *job.pool);
  const bool is_trunk = job.topology.trunk_index() >= 0;
  if (is_trunk)
    job.trunk_weights.emplace(
        load_trunk(*job.checkpoint, job.loaded->arch, job.model(), job.share, *job.pool, numa_node));
  if (job.topology.expert_index() >= 0)
    job.bank.emplace(load_experts(job.experts->source, job.model(), job.columns, *job.pool, numa_node));
  if (!is_trunk) return;
  job.cache.emplace(job.model(), job.share, job.cache_limits, *job.pool, numa_node);
  job.trunk.emplace(make_trunk(job.transport, job.topology, *job.kernels, *job.checkpoint, job.model(), job.share,
                               *job.trunk_weights, job.bank ? &*job.bank : nullptr, *job.cache, job.limits, numa_node));
}

}  // namespace

std::unique_ptr<Transport> make_transport(const RunConfig& run, int* argc, char*** argv) {
  const bool launched = std::getenv("OMPI_COMM_WORLD_SIZE") || std::getenv("PMIX_RANK") || std::getenv("PMI_RANK");
  if (run.transport == "mpi" || (run.transport == "auto" && launched)) return make_mpi_transport(argc, argv);
  return std::move(make_local_transports(1).front());
}

int live(Transport& transport, const std::function<int()>& life) {
  try {
    const int code = life();
    transport.barrier();
    return code;
  } catch (const std::exception& e) {
    log("{}", e.what());
    const auto* error = dynamic_cast<const Error*>(&e);
    transport.abort(error ? error->exit_code() : kExitPeerLost);
    return kExitPeerLost;  // not reached; g++ 12 does not see that
  }
}

bool set_up(JobRank& job, const std::function<void()>& front, const EditConfig& edit) {
  Phases phases{job.transport, job.exit_code};
  if (!phases.run([&] { read_set_up(job, front, edit); }) || !phases.run([&] { place(job); }) ||
      !phases.run([&] { plan(job); }) || !phases.run([&] { load(job); }))
    return false;
  if (job.cores.numa_node >= 0 && job.bank)
    if (const int64_t pages = misplaced_pages(job.bank->storage, job.cores.numa_node); pages > 0)
      log("{} of the sampled pages of the experts are not on NUMA node {}", pages, job.cores.numa_node);
  return true;
}

void follow(JobRank& job) {
  if (job.trunk)
    serve_trunk(*job.trunk);
  else if (job.bank)
    serve_experts(job.transport, job.topology, *job.kernels, job.model(), *job.bank, job.limits.max_rows);
}

}  // namespace kt
