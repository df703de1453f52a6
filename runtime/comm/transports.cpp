#include "runtime/comm/transports.h"

#include <algorithm>
#include <cstdlib>

#include "runtime/base/error.h"
#include "runtime/base/log.h"

namespace kt {
namespace {

constexpr bool has_ucx() {
#ifdef KTMPI_UCX
  return true;
#else
  return false;
#endif
}

bool several_machines(const Transport& job) {
  const std::vector<int> nodes = job.nodes();
  return std::any_of(nodes.begin(), nodes.end(), [&](int node) { return node != nodes[0]; });
}

}  // namespace

std::unique_ptr<Transport> make_job_transport(std::string_view name, int* argc, char*** argv) {
  const bool launched = std::getenv("OMPI_COMM_WORLD_SIZE") || std::getenv("PMIX_RANK") || std::getenv("PMI_RANK");
  if (name == "local" || (name == "auto" && !launched)) return std::move(make_local_transports(1).front());
  return make_mpi_transport(argc, argv);
}

std::string why_losses_end_all() {
  const auto is = [](const char* name, std::string_view value) {
    const char* found = std::getenv(name);
    return found && found == value;
  };
  if (std::getenv("OMPI_COMM_WORLD_SIZE") && std::getenv("OMPI_MCA_orte_hnp_uri") &&
      !is("OMPI_MCA_orte_enable_recovery", "1"))
    return "mpirun ends all ranks when one is lost\n  start it as mpirun --enable-recovery";
  if (std::getenv("OMPI_COMM_WORLD_SIZE") && std::getenv("PRTE_LAUNCHED") && !is("OMPI_MCA_mpi_ft_enable", "1"))
    return "mpirun ends all ranks when one is lost\n  start it as mpirun --with-ft ulfm";
  if (std::getenv("SLURM_STEP_ID") && is("SLURM_KILL_BAD_EXIT", "1"))
    return "srun ends all ranks when one is lost\n  start it as srun --kill-on-bad-exit=0 --no-kill --wait=0";
  return "";
}

std::unique_ptr<Transport> make_step_transport(std::string_view name, Transport& job) {
  const bool is_auto = name == "auto" && has_ucx() && several_machines(job);
  const std::string mine = name == "ucx" || is_auto ? "ucx" : "mpi";
  const std::vector<std::string> names = all_gather(job, mine);
  for (size_t r = 1; r < names.size(); ++r)
    if (names[r] != names[0])
      fail(kExitUsage, "transport: rank 0 has {}, rank {} has {}\n  all ranks need the same options", names[0], r,
           names[r]);
  if (mine != "ucx") return nullptr;
#ifdef KTMPI_UCX
  try {
    return make_ucx_transport(job);
  } catch (const Error& e) {  // on all ranks
    if (!is_auto) throw;
    if (job.rank() == 0) log("transport auto: mpi, although machines are better joined by UCX: {}", e.what());
    return nullptr;
  }
#else
  fail(kExitUsage,
       "transport ucx: this program was built without UCX\n"
       "  build it where pkg-config finds ucx (Debian: libucx-dev), or leave the option out");
#endif
}

}  // namespace kt
