#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace kt {

// IP addresses of this machine's interfaces that are up; `names` says which, as in "eth1,ib0", in that order. Of all if
// it is empty, but for those that only reach this machine. Throws Error(kExitUsage) for a name without an address,
// listing what there is.
std::vector<std::string> own_addresses(std::string_view names = "");

// Before MPI and UCX start: they are to use these interfaces, where the environment does not say otherwise (UCX's names
// of RDMA ports, for example). Throws as above.
void use_interfaces(std::string_view names);

}  // namespace kt
