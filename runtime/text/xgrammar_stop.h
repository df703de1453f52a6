#pragma once

namespace xgrammar {

// Throws when nobody waits any longer for what this thread compiles. See xgrammar.cmake for who calls it.
void StopPoint();

}  // namespace xgrammar
