#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace kt {

// The members of a request that /set knows.
std::vector<std::string_view> parameter_names();

void check_parameter_name(std::string_view name);  // throws Error(kExitUsage) with the nearest one

// Their value as it stands in a request; `text` as typed. Throws Error(kExitUsage) with what is expected.
nlohmann::ordered_json parameter_value(std::string_view name, std::string_view text);

}  // namespace kt
