#include "runtime/doctor/site.h"

#include <algorithm>
#include <cstdlib>

#include "runtime/base/host_name.h"

namespace kt {

Site look_around(std::string version, std::string mpi_library) {
  Site site{.version = std::move(version), .mpi_library = std::move(mpi_library)};
  for (char** entry = environ; *entry; ++entry) {
    const std::string text = *entry;
    const size_t equals = text.find('=');
    if (equals != std::string::npos) site.environment[text.substr(0, equals)] = text.substr(equals + 1);
  }
  site.machine = read_machine();
  site.allowed_cpus = allowed_cpus();
  return site;
}

std::string host_name(const Site& site) {
  const std::string node = site.variable("KTMPI_NODE");
  return host_name() + (node.empty() ? "" : ", node " + node);
}

Launcher find_launcher(const Site& site) {
  const auto number = [&](const char* name) { return std::max(1, std::atoi(site.variable(name).c_str())); };
  if (!site.variable("OMPI_COMM_WORLD_SIZE").empty()) return {"Open MPI's mpirun", number("OMPI_COMM_WORLD_SIZE")};
  // Of a job step: a batch script has SLURM_NTASKS too.
  const int tasks = number("SLURM_STEP_NUM_TASKS");
  if (!site.variable("PMIX_RANK").empty()) return {"a launcher with PMIx", tasks};
  if (!site.variable("PMI_RANK").empty()) return {"a launcher with PMI", std::max(tasks, number("PMI_SIZE")), false};
  if (tasks > 1) return {"srun without PMIx", tasks, false};
  return {};
}

}  // namespace kt
