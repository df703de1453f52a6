#pragma once

#include <string>

namespace xgrammar {

// What the library warned of on this thread since the last call.
std::string take_warning();

// Throws when nobody waits any longer for what this thread compiles. See xgrammar.cmake for who calls it.
void StopPoint();

}  // namespace xgrammar
