#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "runtime/config/options.h"

namespace kt {

// Checks a written value against the option's type, range and words and stores it. Returns what was expected if the
// value is not that ("a whole number from 1 to 65535"); `config` is unchanged then.
std::optional<std::string> assign(RunConfig& config, const Option& option, std::string_view value);

// Whether a value of an option that is not built leaves things as they are.
bool asks_for_nothing(const Option& option, std::string_view value);

}  // namespace kt
