#pragma once

#include <string>

namespace kt {

// docs/options.md: all options of serve, group by group, and what has no effect.
std::string options_markdown();

}  // namespace kt
