#pragma once

#include <nlohmann/json.hpp>
#include <string_view>

namespace kt {

// Parses JSON that came with a checkpoint: valid UTF-8, no key twice in one object, at most `max_depth` levels of
// nesting. Throws Error(kExitModel): "<where>: ..." with the position of the mistake.
nlohmann::json parse_strict_json(std::string_view text, std::string_view where, size_t max_depth);

}  // namespace kt
