#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace kt {

// A name from a file as it appears in messages: quoted, control characters escaped, cut at 200 bytes.
std::string shown(std::string_view name);

// A shape: "(256, 7168)".
std::string shown(std::span<const int64_t> shape);

}  // namespace kt
