#include "runtime/rank/job.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "kernels/device_fault.h"
#include "runtime/base/error.h"
#include "runtime/base/log.h"
#include "runtime/base/progress.h"
#include "runtime/checkpoint/dummy.h"
#include "runtime/comm/interfaces.h"
#include "runtime/comm/joint_progress.h"
#include "runtime/comm/transports.h"
#include "runtime/engine/engine_options.h"
#include "runtime/plan/plan.h"
#include "runtime/rank/agreement.h"
#include "runtime/rank/expert_rank.h"
#include "runtime/rank/job_device.h"
#include "runtime/rank/job_memory.h"
#include "runtime/rank/job_sums.h"
#include "runtime/rank/kept_banks.h"
#include "runtime/rank/machine_limits.h"
#include "runtime/rank/measured_rates.h"
#include "runtime/rank/rank_map.h"
#include "runtime/rank/regroup.h"

namespace kt {
namespace {

// Runs one phase of the set-up on this rank and returns when it is done on all; false if it failed anywhere. A phase
// either fails on all ranks or talks to other ranks before anything in it can fail.
// The lowest rank that failed says why, and where it is if other machines did not fail.
struct Phases {
  Transport& transport;
  int& exit_code;
  std::function<std::string(int rank)> name_of = nullptr;

  bool run(const std::function<void()>& phase) {
    std::string failure;  // exit code, a space, the message
    try {
      phase();
    } catch (const Error& e) {
      failure = fmt::format("{} {}", static_cast<int>(e.exit_code()), e.what());
    } catch (const DeviceFault& e) {
      failure = fmt::format("{} device: {}", static_cast<int>(kExitDevice), e.what());
    } catch (const std::bad_alloc&) {
      failure = fmt::format("{} out of memory", static_cast<int>(kExitTryAgain));
    }
    const std::vector<std::string> failures = all_gather(transport, failure);
    const auto first = std::find_if(failures.begin(), failures.end(), [](const std::string& f) { return !f.empty(); });
    if (first == failures.end()) return true;
    exit_code = std::atoi(first->c_str());
    if (first - failures.begin() == transport.rank())
      log_failure((is_of_some(failures) ? name_of(transport.rank()) + ": " : "") + first->substr(first->find(' ') + 1));
    return false;
  }

  bool is_of_some(const std::vector<std::string>& failures) const {
    const std::vector<int> nodes = transport.nodes();
    return name_of && *std::max_element(nodes.begin(), nodes.end()) > 0 &&
           std::find(failures.begin(), failures.end(), "") != failures.end();
  }
};

void require_one_table(Transport& transport, const Ops& ops) {
  const std::vector<std::string> names = all_gather(transport, std::string(ops.name));
  for (size_t r = 1; r < names.size(); ++r)
    if (names[r] != names[0])
      fail(kExitUsage,
           "rank 0 has the kernels {}, rank {} has {}: ranks with different kernels may differ in results\n  set "
           "KTMPI_ISA={} for all",
           names[0], r, names[r], std::min(names[0], names[r]));
}

// What it throws ends all ranks with its exit code.
void end_all_on_error(JobRank& job, const std::function<void()>& work) {
  try {
    work();
  } catch (const std::exception& e) {
    log_error("{}", e.what());
    const auto* error = dynamic_cast<const Error*>(&e);
    const bool of_own_device = dynamic_cast<const DeviceFault*>(&e) && !dynamic_cast<const LostPeer*>(&e);
    const int exit_code = error ? error->exit_code() : of_own_device ? kExitDevice : kExitPeerLost;
    if (error ? exit_code == kExitPeerLost : !of_own_device) job.leave_to_lifeline();
    job.end_all(exit_code);
  }
}

// Elsewhere than on rank 0: rank 0 is gone, or ends the job and has said why.
[[noreturn]] void follow_rank_0(JobRank& job, const Loss& loss) {
  if (!loss.exit_code) log_error("{} was lost: leaving", job.lifeline->name(loss.rank));
  std::_Exit(loss.exit_code.value_or(kExitPeerLost));
}

[[noreturn]] void end_for(JobRank& job, const Loss& loss) {
  const std::string who = job.lifeline->name(loss.rank);
  log_error("{}", loss.exit_code ? who + " ends the job" : who + " was lost: ending the job");
  {
    const std::lock_guard lock(job.front_mutex);
    if (job.on_end) job.on_end(who + (loss.exit_code ? " has failed." : " was lost."));
  }
  job.end_all(loss.exit_code.value_or(kExitPeerLost));
}

// ---- the phases ----------------------------------------------------------------------------------------------------

void open_lifeline(JobRank& job) {
  set_log_name(job.rank(), "");
  const auto on_loss = [&job](const Loss& loss) { job.rank() == 0 ? end_for(job, loss) : follow_rank_0(job, loss); };
  job.lifeline =
      std::make_unique<Lifeline>(job.transport, on_loss,
                                 LifelineOptions{.interfaces = job.run.comm_interface,
                                                 .silence_s = std::chrono::duration<double>(job.run.peer_timeout_s)});
}

std::vector<std::string> roles_of(Topology topology) {
  std::vector<std::string> roles;
  for (topology.rank = 0; topology.rank < topology.world; ++topology.rank) roles.push_back(topology.role_name());
  return roles;
}

void choose_kernels(JobRank& job) {
  try {
    job.ops = &choose_ops();
  } catch (const std::runtime_error& e) {
    fail(kExitUsage, "{}", e.what());
  }
}

Topology topology_with(const JobRank& job, std::string_view layout) {
  return plan_topology({.tensor_parallel = job.run.tensor_parallel_size,
                        .experts_per_node = job.run.kt_threadpool_count.value_or(-1),
                        .expert_layout = layout,
                        .replicated = job.run.bank == "replicate"},
                       job.rank(), job.transport.nodes());
}

// With the rates that all ranks have measured together.
void choose_expert_layout(JobRank& job, const Hardware& rates) {
  job.layout =
      choose_layout(job.model(), job.experts->source.format, rates, job.engine.chunked_prefill_size,
                    dispatch_type(job.run), [&](std::string_view layout) { return topology_with(job, layout); });
  job.topology = topology_with(job, job.layout.layout);
  if (job.rank() == 0) log("expert-layout auto: {} ({})", job.layout.layout, job.layout.why);
}

void choose_sliced_steps(JobRank& job, const Hardware& rates) {
  job.sliced =
      choose_sliced(job.run, job.model(), job.experts->source.format, rates, job.topology, max_step_rows(job.engine));
  if (job.rank() == 0) log("{}", sliced_line(job.sliced));
}

void find_place(JobRank& job) {
  job.layout.layout = job.run.expert_layout == "auto" ? "hybrid" : job.run.expert_layout;
  job.topology = topology_with(job, job.layout.layout);
  set_log_name(job.rank(), job.topology.role_name());
  job.lifeline->set_roles(roles_of(job.topology));
  if (const std::string uneven = uneven_machines(job.topology); job.rank() == 0 && !uneven.empty())
    log_warning("{}", uneven);
}

void read_set_up(JobRank& job, const std::optional<Hardware>& rates, const std::function<void()>& front,
                 const EditConfig& edit) {
  const RunConfig& run = job.run;
  job.loaded.emplace(load_model_config(run.model));
  if (edit) edit(*job.loaded);
  const ModelConfig& model = job.model();
  job.engine = engine_config(run, model);
  trunk_share(model, 0, run.tensor_parallel_size);  // the heads divide, also in a world of one
  job.share = trunk_share(model, std::max(0, job.topology.trunk_index()), static_cast<int>(job.topology.trunk.size()));
  job.checkpoint = run.load_format == "dummy" ? dummy_checkpoint({.norm_plus_one = model.norm_plus_one})
                                              : open_checkpoint(run.model);
  job.experts = find_experts(run, *job.loaded, *job.checkpoint);
  if (job.run.expert_layout == "auto") choose_expert_layout(job, *rates);
  job.hot = place_hot(run, model);
  job.copies = place_copies(run, model, job.topology);
  if (job.topology.replicated) choose_sliced_steps(job, *rates);
  check_deferral(run, job.topology);
  if (job.rank() != 0) return;
  if (!job.experts->warning.empty()) log_warning("{}", job.experts->warning);
  for (const std::string& w : run.warnings) log_warning("{}", w);
  front();
}

// What `ktmpi plan` would say, of the machines at hand.
void log_plan(const JobRank& job, const std::vector<size_t>& available) {
  Hardware machine = this_machine();
  if (job.gpu_trunk()) describe_gpus(job, available, machine);
  machine.nodes = *std::max_element(job.topology.node_of.begin(), job.topology.node_of.end()) + 1;
  const int experts_each = static_cast<int>(job.topology.experts.size()) / machine.nodes;
  ClusterPlan plan{.hardware = machine,
                   .layout = {.layout = job.layout.layout, .why = {}},
                   .worlds = valid_world_sizes({.tensor_parallel = job.run.tensor_parallel_size,
                                                .experts_per_node = job.run.kt_threadpool_count.value_or(experts_each)},
                                               machine.nodes),
                   .deployment = deployment_of(job)};
  RunConfig run = job.run;
  run.max_total_tokens = job.engine.kv_blocks * kBlockTokens;
  complete(plan, run);
  if (!plan.shortages.empty() && plan.remedies.options.empty()) return;  // check_memory says what to do
  log("plan\n{}", to_text(plan));
}

void take_share(JobRank& job) {
  if (job.topology.expert_index() >= 0)
    job.expert_share = bank_share(job.model(), job.topology, job.copies, job.topology.expert_index());
  find_kept_bank(job);
}

void place(JobRank& job) {
  require_one_table(job.transport, *job.ops);
  count_kept_banks(job);
  const std::vector<size_t> available = free_memory(job);
  const std::vector<int> idle = ranks_without_experts(job.model(), job.topology);
  job.cores = plan_cores(job.transport, job.topology, idle,
                         {.trunk_threads = job.run.trunk_threads,
                          .kt_cpuinfer = job.run.kt_cpuinfer,
                          .kt_numa_nodes = job.run.kt_numa_nodes,
                          .threads_per_core = job.run.threads_per_core});
  for (const std::string& w : job.cores.warnings) log_warning("{}", w);
  if (const std::string map = rank_map(job); job.rank() == 0 && job.transport.size() > 1)
    log("ranks, by {}\n{}", job.transport.name(), map);
  size_kv_cache(job, available);
  job.limits = trunk_limits(job.run, job.engine, job.model(), job.experts->source.format, job.topology);
  job.limits.hot_format = job.experts->hot.value_or(job.experts->source).format;
  job.cache_limits = cache_limits(job.engine);
  job.doors = plan_doors(job.topology, job.model(), job.limits);

  check_losses(job);
  if (job.topology.expert_index() >= 0) check_experts(job.experts->source, job.model(), job.expert_share);
  const bool trunk = job.topology.trunk_index() >= 0;
  if (trunk && job.experts->hot) check_experts(*job.experts->hot, job.model(), Range{0, job.model().moe.inter});
  job.memory = plan_memory(
      {.config = job.model(),
       .trunk = trunk ? &job.share : nullptr,
       .trunk_weights =
           trunk
               ? trunk_size(*job.checkpoint, job.loaded->arch, job.model(), job.share, job.limits.trunk_method).resident
               : 0,
       .bank = job.expert_share,
       .experts = job.experts->source.format,
       .cache = job.cache_limits,
       .limits = job.limits,
       .door_bytes = door_bytes(job.doors, job.topology),
       .threads = job.cores.threads,
       .scheduler = job.rank() == 0});
  if (job.rank() == 0) log_plan(job, available);
}

// Before weights are loaded: a lane may not be there for two threads.
void open_doors(JobRank& job) {
  open_doors(job.doors, job.transport, job.topology);
  if (!job.limits.spare_experts) return;
  job.lane = job.transport.lane();
  job.side_doors = plan_side_doors(job.topology, job.model());
  open_doors(job.side_doors, *job.lane, job.topology);
}

// Where trunk ranks send rows, add sums and gather logits.
void enter_doors(JobRank& job) {
  const auto dispatch = [&](Transport& transport, const Doors& doors) {
    return std::make_unique<TrunkDispatch>(transport, job.topology, doors.teams, doors.shape, doors.mailbox);
  };
  const bool is_trunk = job.topology.trunk_index() >= 0;
  if (is_trunk && !job.doors.teams.empty()) {
    job.dispatch = dispatch(job.transport, job.doors);
    if (job.lane) job.side_dispatch = dispatch(*job.lane, job.side_doors);
  }
  if (job.doors.shares_sums && (is_trunk || job.rank() == 0))
    job.group = std::make_unique<Group>(job.transport, job.doors.trunk, job.doors.values, job.doors.sum_bytes);
}

void plan(JobRank& job) {
  log("kernels {}, {} threads{}; memory {}", job.ops->name, job.cores.threads,
      job.cores.cores.empty() ? "" : ", pinned", describe(job.memory));
  check_memory(job);
  check_bank_folder(job);
}

void load(JobRank& job) {
  enter_doors(job);
  job.pool = std::make_unique<ThreadPool>(job.cores.threads, job.cores.cores);
  job.cpu = make_cpu_device(*job.ops, *job.pool, job.cores.numa_node);
  if (job.topology.expert_index() >= 0)
    job.bank.emplace(load_experts(job.experts->source, job.model(), job.expert_share, *job.cpu,
                                  job.kept_bank ? &*job.kept_bank : nullptr, job.cores.numa_node));
  const bool is_trunk = job.topology.trunk_index() >= 0;
  const bool by_other = is_trunk && job.limits.device != &cpu_kind();
  if (job.bank && (!is_trunk || by_other))
    job.cpu->reserve(bank_shape(job.model(), job.bank->share, job.bank->format, job.limits.max_rows));
  if (!is_trunk) return;
  if (by_other) job.other = job.limits.device->make(*job.ops, *job.pool, job.cores.numa_node, job.device_index);
  Device& device = job.trunk_device();
  if (job.nccl) device.join(std::move(job.nccl));
  job.trunk_weights.emplace(
      load_trunk(*job.checkpoint, job.loaded->arch, job.model(), job.share, device, job.limits.trunk_method));
  job.cache.emplace(job.model(), job.share, job.cache_limits, device);
  job.trunk.emplace(make_trunk(job.transport, job.topology, device, *job.checkpoint, job.model(), job.share,
                               *job.trunk_weights, job.bank ? &*job.bank : nullptr, *job.cache, job.limits, job.copies,
                               job.dispatch.get(), job.group.get()));
  if (job.experts->hot) job.trunk->experts->hot_source = &*job.experts->hot;
  if (job.lane)
    job.trunk->experts->mover = std::make_unique<ExpertMover>(*job.trunk, *job.lane, job.side_dispatch.get());
}

// With lines about all ranks.
bool load_together(JobRank& job, Phases& phases) {
  JointProgress progress(job.transport, *job.lifeline, job.memory.trunk_weights + job.memory.experts,
                         Progress::bytes_of_all);
  if (!phases.run([&] { load(job); })) return false;
  progress.finish();
  job.lifeline->set_pulse([&pool = *job.pool] { return pool.pulse(); });
  return true;
}

// MPI's own end would wait for them.
[[noreturn]] void leave_without_the_lost(JobRank& job) {
  job.lifeline.reset();
  std::fflush(nullptr);
  std::_Exit(job.exit_code);
}

// Steps as they are asked for, until this rank is dismissed.
void follow_steps(JobRank& job, const std::function<void()>& steps) {
  for (;;) {
    try {
      return steps();
    } catch (const Error& e) {
      if (e.exit_code() != kExitPeerLost || !regroup(job)) throw;
    }
  }
}

// In the doors to which `doors` belongs; a rank whose step is left has its dispatch until it has regrouped.
void serve_bank(JobRank& job, Transport& transport, const Doors& doors) {
  StepClock clock(job.model().layers.size());
  std::unique_ptr<ExpertDispatch> dispatch;
  follow_steps(job, [&] {
    dispatch = std::make_unique<ExpertDispatch>(transport, job.topology, doors.teams, doors.shape, doors.mailbox);
    serve_experts(transport, job.topology, *dispatch, doors.shape, clock, *job.cpu, job.model(), *job.bank);
  });
}

}  // namespace

void JobRank::tell_before_end(std::function<void(const std::string& why)> tell) {
  const std::lock_guard lock(front_mutex);
  on_end = std::move(tell);
}

void JobRank::leave_to_lifeline() const {
  constexpr auto kNews = std::chrono::seconds(2);
  if (lifeline && transport.size() > 1) std::this_thread::sleep_for(kNews);
}

void JobRank::end_all(int exit_code) {
  if (lifeline) lifeline->end_job(exit_code);
  transport.abort(exit_code);
  std::_Exit(exit_code);  // g++ does not see that a virtual function never returns
}

int run_job(int argc, char** argv, const std::function<RunConfig()>& read, const std::function<int(JobRank&)>& life) {
  RunConfig run;
  std::optional<Error> wrong;
  try {
    run = read();
    use_interfaces(run.comm_interface);
  } catch (const Error& e) {
    wrong = e;
  }
  const std::unique_ptr<Transport> launched = make_job_transport(run.transport, &argc, &argv);
  std::unique_ptr<Transport> own;
  int exit_code = kExitOk;
  Phases phases{*launched, exit_code};
  const auto options_are_right = [&] {
    if (wrong) throw *wrong;
  };
  if (!phases.run(options_are_right) || !phases.run([&] { own = make_step_transport(run.transport, *launched); }))
    return exit_code;
  Transport& transport = own ? *own : *launched;
  JobRank job{run, transport};
  end_all_on_error(job, [&] {
    job.exit_code = life(job);
    const bool is_whole = lost_ranks(job).empty();
    is_whole ? transport.barrier() : leave_together(transport);
    if (job.exit_code == kExitOk && job.kept_bank) job.kept_bank->remove();
    if (!is_whole) leave_without_the_lost(job);
  });
  return job.exit_code;
}

bool set_up(JobRank& job, const std::function<void()>& front, const EditConfig& edit) {
  const auto name_of = [&job](int rank) { return job.lifeline->name(rank); };
  Phases phases{job.transport, job.exit_code};
  std::optional<Hardware> rates;  // where they decide something
  const auto measure = [&] {
    if (job.run.expert_layout == "auto" || job.run.bank == "replicate") rates = measure_rates(job.transport, *job.ops);
  };
  if (!phases.run([&] { open_lifeline(job); })) return false;
  phases.name_of = name_of;
  if (!phases.run([&] { agree_on_start(job.transport, job.run, name_of); }) ||
      !phases.run([&] { choose_kernels(job); }) || !phases.run(measure) || !phases.run([&] { find_place(job); }) ||
      !phases.run([&] { choose_device(job); }) || !phases.run([&] { choose_sums(job); }) ||
      !phases.run([&] { read_set_up(job, rates, front, edit); }) || !phases.run([&] {
        job.model_checksum =
            agree_on_model(job.transport, *job.loaded, *job.checkpoint, *job.experts, job.hot, job.copies, name_of);
      }) ||
      !phases.run([&] { take_share(job); }) || !phases.run([&] { place(job); }) || !phases.run([&] { plan(job); }) ||
      !phases.run([&] { open_doors(job); }) || !load_together(job, phases))
    return false;
  const int64_t pages =
      job.cores.numa_node >= 0 && job.bank ? misplaced_pages(job.bank->storage, job.cores.numa_node) : -1;
  if (pages > 0)
    log_warning("{} of the sampled pages of the experts are not on NUMA node {}", pages, job.cores.numa_node);
  for (const std::string& of_rank : all_gather(job.transport, std::to_string(pages)))
    job.misplaced_pages_of_rank.push_back(std::stoll(of_rank));
  return true;
}

std::vector<double> weight_rates(JobRank& job) {
  constexpr size_t kMost = size_t{256} << 20;
  const Buffer* weights = job.bank && job.bank->storage.size() ? &job.bank->storage
                          : job.trunk_weights && !job.other    ? &job.trunk_weights->storage
                                                               : nullptr;
  job.transport.barrier();
  const double mine = weights ? measure_dram(*job.pool, *job.ops, *weights, kMost, 1) : 0.0;
  std::vector<double> all;
  for (const std::string& rate : all_gather(job.transport, fmt::format("{}", mine))) all.push_back(std::stod(rate));
  return all;
}

void follow(JobRank& job) {
  watch_losses(job);
  if (job.trunk) return follow_steps(job, [&] { serve_trunk(*job.trunk); });
  if (!job.bank) return;
  std::jthread beside;  // gives weights away, computes nothing
  if (job.lane && job.bank->share.count(job.model().moe.experts))
    beside = std::jthread([&] {
      job.pool->unpin_caller();
      end_all_on_error(job, [&] { serve_bank(job, *job.lane, job.side_doors); });
    });
  end_all_on_error(job, [&] { serve_bank(job, job.transport, job.doors); });  // before the lane is waited for
}

}  // namespace kt
