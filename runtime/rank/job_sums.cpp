#include "runtime/rank/job_sums.h"

#include <algorithm>

#include "kernels/device_fault.h"
#include "runtime/base/log.h"

namespace kt {
namespace {

constexpr auto kJoinLimit = std::chrono::seconds(60);

// Where it is not asked for by name.
bool suits(const JobRank& job) {
  return job.device_kind->has_nccl && job.gpu_trunk() && job.topology.trunk.size() > 1 &&
         job.run.on_lost_expert_rank == "end";
}

// What each rank makes, if all can: those that cannot say why. All ranks call it.
template <class Make>
std::vector<std::string> all_make(JobRank& job, std::string& why, const Make& make) {
  std::string mine = "+";
  try {
    mine += make();
  } catch (const DeviceFault& e) {
    mine = "-" + job.lifeline->name(job.rank()) + ": " + e.what();
  }
  std::vector<std::string> all = all_gather(job.transport, mine);
  for (const std::string& one : all)
    if (one[0] == '-' && why.empty()) why = one.substr(1);
  for (std::string& one : all) one.erase(0, 1);
  return all;
}

// "": all have joined.
std::string join(JobRank& job) {
  const int place = job.topology.trunk_index(), count = static_cast<int>(job.topology.trunk.size());
  std::string why;
  const std::vector<std::string> ids = all_make(job, why, [&] {
    if (place >= 0) Nccl::version();  // whether it can be opened
    return place == 0 ? Nccl::make_id() : "";
  });
  if (!why.empty()) return why;
  all_make(job, why, [&] {
    if (place >= 0) job.nccl = Nccl::join(ids[static_cast<size_t>(job.topology.trunk[0])], place, count, kJoinLimit);
    return "";
  });
  if (!why.empty()) job.nccl.reset();
  return why;
}

}  // namespace

void choose_sums(JobRank& job) {
  const bool automatic = job.run.trunk_sums == "auto";
  if (automatic && !suits(job)) job.run.trunk_sums = "host";
  if (job.run.trunk_sums == "host") return;
  if (!job.device_kind->has_nccl)
    fail(kExitUsage, "trunk-sums nccl: NCCL adds between GPUs: device is {}\nset trunk-sums to auto or host",
         job.run.device);

  const std::string why = join(job);
  if (!why.empty() && !automatic)
    fail(kExitUsage,
         "trunk-sums nccl: {}\nlet KTMPI_NCCL_LIBRARY name a libnccl.so.2 (PyPI: nvidia-nccl-cu13), see what "
         "NCCL_DEBUG=INFO "
         "tells, or set trunk-sums to auto or host",
         why);
  job.run.trunk_sums = why.empty() ? "nccl" : "host";
  if (job.rank() == 0 && why.empty()) log("trunk-sums: NCCL adds");
  if (job.rank() == 0 && !why.empty()) log_warning("trunk-sums auto: the host adds: {}", why);
  if (job.nccl && job.gpu_trunk()) job.device_bytes = job.device_kind->available_bytes(job.device_index);
}

}  // namespace kt
