#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace kt {

// JSON to a tree and back without changing a number: integers beyond 64 bit, which nlohmann would turn into doubles,
// are held as a binary value (JSON text has none, so nothing else can be one) and written back digit by digit.
// A repeated key keeps its first place and its last value, as in Python.
//
// Throws std::runtime_error with the position for anything that is not one JSON value in valid UTF-8 (lone surrogate
// escapes, NaN, numbers beyond a double, trailing text) and for nesting deeper than `max_depth`.
nlohmann::ordered_json parse_exact(std::string_view text, int max_depth = 64);

// The tree as compact JSON. Throws std::runtime_error for a string that is not UTF-8 (parse_exact makes none).
std::string dump_exact(const nlohmann::ordered_json& value);

}  // namespace kt
