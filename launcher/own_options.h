#pragma once

#include <boost/program_options.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace kt {

// Stores what a command's own options say in `values` and where they point to; returns the rest, which are serve's.
// Throws Error(kExitUsage) naming the command.
std::vector<std::string> take_own_options(int argc, char** argv, std::string_view command,
                                          const boost::program_options::options_description& own,
                                          boost::program_options::variables_map& values);

}  // namespace kt
