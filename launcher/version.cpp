#include <mpi.h>

#include <cstdio>
#include <string_view>

#include "launcher/commands.h"
#include "runtime/base/error.h"

namespace kt {
namespace {

// First line of what the library says of itself; it may be asked before MPI is initialised.
std::string mpi_library() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  int length = 0;
  MPI_Get_library_version(text, &length);
  const std::string_view whole(text, static_cast<size_t>(length));
  return std::string(whole.substr(0, whole.find_first_of(",\n")));
}

}  // namespace

int version_command(int, char**) {
  fmt::print("ktmpi {}\n", KTMPI_VERSION);
  fmt::print("compiler: g++ {}\n", __VERSION__);
  fmt::print("mpi: {}\n", mpi_library());
  fmt::print("found at build: {}\n", KTMPI_FOUND);
  return kExitOk;
}

}  // namespace kt
