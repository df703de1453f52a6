#pragma once

#include <string>

namespace kt {

// "Open MPI v4.1.4".
std::string mpi_library();

}  // namespace kt
