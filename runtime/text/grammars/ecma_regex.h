#pragma once

#include <string>
#include <string_view>

#include "runtime/text/grammars/schema_pattern.h"

namespace kt {

// Reads a regular expression of ECMA-262 (the u flag, no others). Throws std::invalid_argument with the place of what
// is wrong or has no counterpart in SchemaPattern::Node.
SchemaPattern::Node parse_ecma_regex(std::string_view expression);

// Of UTF-8 text; bytes that are not UTF-8 become U+FFFD.
std::u32string characters_of(std::string_view text);

}  // namespace kt
