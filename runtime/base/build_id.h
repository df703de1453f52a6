#pragma once

#include <string>

namespace kt {

// What the linker calls this program: another one wherever two builds differ. The first 12 digits; "" where it left
// none.
std::string build_id();

}  // namespace kt
