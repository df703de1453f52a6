#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace kt {

// "1,4,16" as numbers of at least `least`; none for "". Throws Error(kExitUsage) naming the option.
std::vector<int> number_list(std::string_view option, const std::string& list, int least = 1);

}  // namespace kt
