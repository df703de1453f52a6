#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace kt {

// The string that a Python source assigns to `name` at the beginning of a line, read as data: nothing is executed.
// Literals with any quotes, raw ones, and several in parentheses are understood. Nothing when there is no such
// assignment; throws std::runtime_error for one that is anything but a string literal.
std::optional<std::string> assigned_string(std::string_view python_source, std::string_view name);

}  // namespace kt
