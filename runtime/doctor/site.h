#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "runtime/comm/machine.h"
#include "runtime/config/run_config.h"

namespace kt {

// What the doctor looks at.
struct Site {
  std::filesystem::path root = "/";                // of the system's files; another folder in tests
  std::map<std::string, std::string> environment;  // of this process, as it was started
  std::string version, mpi_library;                // of this program, and what it runs with
  Machine machine;                                 // what control groups leave of the processors
  std::vector<int> allowed_cpus;                   // what the launcher leaves of these
  RunConfig run;                                   // model "": none is looked at
  int machines = 1;                                // of the job, with this one
  std::optional<int> world;                        // its ranks; nothing: as many as one would start

  std::string variable(const std::string& name) const {  // "": it is not set
    const auto found = environment.find(name);
    return found == environment.end() ? "" : found->second;
  }
  // Only of this machine more can be known than files tell.
  bool is_here() const { return root == "/"; }
};

// This machine and process. To be called before MPI starts: its libraries set variables of their own.
Site look_around(std::string version, std::string mpi_library);

// This machine's, with KTMPI_NODE where that is set.
std::string host_name(const Site& site);

// "Open MPI's mpirun" or "srun with PMIx", and how many ranks it says it has started.
struct Launcher {
  std::string name;  // "": none
  int ranks = 1;
  bool is_ours = true;  // one whose ranks Open MPI finds
};
Launcher find_launcher(const Site& site);

}  // namespace kt
