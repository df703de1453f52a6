#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>

#include "kernels/nccl.h"
#include "runtime/arch/load_config.h"
#include "runtime/base/error.h"
#include "runtime/comm/cores.h"
#include "runtime/comm/lifeline.h"
#include "runtime/comm/topology.h"
#include "runtime/comm/transport.h"
#include "runtime/config/run_config.h"
#include "runtime/engine/engine.h"
#include "runtime/model/experts/doors.h"
#include "runtime/model/experts/moe_room.h"
#include "runtime/placement/placement.h"
#include "runtime/plan/layout.h"
#include "runtime/plan/memory_plan.h"
#include "runtime/rank/cluster_runner.h"
#include "runtime/rank/expert_source.h"

namespace kt {

// Expert ranks that are gone and without which the others go on; see regroup.h.
struct Losses {
  std::mutex mutex;              // guards all below
  std::condition_variable news;  // of more
  std::vector<int> ranks;
  size_t left_out = 0;  // so many of them this rank is ready to go on without
  bool is_news() const { return left_out < ranks.size(); }
};

// One rank of a job that runs the model: what set_up makes of the options, in the order in which it is made.
struct JobRank {
  RunConfig& run;  // `device` and `trunk_sums` auto become what they mean here
  Transport& transport;
  int exit_code = kExitOk;  // of a set-up that failed

  LayoutChoice layout = {};  // of the routed experts
  SliceChoice sliced = {};   // of steps, on replicated banks
  Topology topology = {};
  const Ops* ops = nullptr;
  const DeviceKind* device_kind = &cpu_kind();  // of the trunk
  int device_index = 0;                         // of this rank's
  size_t device_bytes = 0;                      // that are free on it, where it has memory of its own
  std::unique_ptr<Nccl> nccl = {};              // that adds for it, until it is loaded; null: the host adds
  std::optional<LoadedConfig> loaded = {};
  EngineConfig engine = {};
  TrunkShare share = {};
  std::unique_ptr<Checkpoint> checkpoint = {};
  std::unique_ptr<ExpertFiles> experts = {};
  CacheLimits cache_limits = {};
  TrunkLimits limits = {};
  ExpertShare expert_share = {};    // that this rank holds
  std::string model_checksum = {};  // of all that ranks agreed on
  std::optional<KeptBank> kept_bank = {};
  size_t kept_bytes = 0, kept_bytes_to_come = 0;  // of this machine's memory, in kept banks of its ranks
  HotSets hot = {};                               // at start
  std::vector<ExpertSets> copies = {};            // of experts, by group of expert ranks
  CorePlan cores = {};
  MemoryPlan memory = {};
  std::vector<size_t> memory_of_rank = {};            // bytes of the machine's memory, of every rank
  std::vector<int64_t> misplaced_pages_of_rank = {};  // of the sampled ones of its experts; -1: not known
  Doors doors = {};
  std::unique_ptr<Transport> lane = {};  // where hot experts are exchanged beside steps
  Doors side_doors = {};                 // on it
  std::unique_ptr<ThreadPool> pool = {};
  std::unique_ptr<Device> cpu = {};    // of the bank, and of the trunk if `device` says so
  std::unique_ptr<Device> other = {};  // of the trunk, if not
  std::optional<TrunkWeights> trunk_weights = {};
  std::optional<ExpertBank> bank = {};
  std::optional<StateCache> cache = {};
  std::unique_ptr<TrunkDispatch> dispatch = {}, side_dispatch = {};  // on trunk ranks, if experts are elsewhere
  std::unique_ptr<Group> group = {};                                 // on trunk ranks and rank 0, if they are several
  std::optional<Trunk> trunk = {};                                   // on trunk ranks

  Losses losses = {};
  std::mutex front_mutex = {};
  std::function<void(const std::string& why)> on_end = {};  // on rank 0: tells clients that the job ends now
  std::unique_ptr<Lifeline> lifeline = {};                  // ends before what it watches

  int rank() const { return transport.rank(); }
  bool gpu_trunk() const { return !device_kind->on_host; }
  const ModelConfig& model() const { return loaded->config; }
  Device& trunk_device() const { return other ? *other : *cpu; }

  // Another rank's end is all ranks' end. From here on clients are told before; null: nobody is left to be told.
  void tell_before_end(std::function<void(const std::string& why)> on_end);
  // A rank that is gone is the lifeline's to tell: it names it to log and clients and ends the job. Leaves it time for
  // that, where a step has noticed too.
  void leave_to_lifeline() const;
  // Ends all ranks at once with that exit code; why is in the log.
  [[noreturn]] void end_all(int exit_code);
};

// A job's main function. Reads the options, on all ranks: what one of them finds wrong is said once and ends all with
// its exit code, whoever leaves first. Then this rank's life, its exit code, and all ranks wait for each other. What a
// life throws, past the set-up, ends all ranks: the others wait in a step and cannot be asked. Under a launcher with
// MPI.
int run_job(int argc, char** argv, const std::function<RunConfig()>& read, const std::function<int(JobRank&)>& life);

// Changes to what a checkpoint's config.json says, before anything follows from it; none by default.
using EditConfig = std::function<void(LoadedConfig& loaded)>;

// Takes this rank from options to weights in memory, in phases that all ranks leave together: whatever one rank finds
// wrong is said once and ends all of them with its exit code, before the next phase begins. `front` is rank 0's own
// part of the first phase: all that can fail before memory is taken. False if a rank failed; see exit_code.
bool set_up(JobRank& job, const std::function<void()>& front, const EditConfig& edit = nullptr);

// GB/s with which every rank's threads read its weights (a part of them, once or twice), all ranks at a time; 0 where
// there are none. All ranks call it after set_up.
std::vector<double> weight_rates(JobRank& job);

// The life of a rank that is not rank 0, after set_up: steps as rank 0 sends them, until it dismisses all.
void follow(JobRank& job);

}  // namespace kt
