#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "runtime/serve/json.h"

namespace kt {

// Throws BadRequest for a regular expression (or EBNF grammar) whose repeats, written out, have more than
// kMaxRepeatedParts parts: every token of the answer would cost the engine milliseconds. "(ab){3}c{2,4}" has 10.
inline constexpr size_t kMaxRepeatedParts = 256;
void check_repeats(std::string_view expression, const std::string& path);

// The same, and for one that is too long.
inline constexpr size_t kMaxExpressionBytes = 1024;
void check_expression(std::string_view expression, const std::string& path);

// A client's JSON schema as the grammar compiler is to have it. Throws BadRequest for keywords that it would ignore
// and patterns that are too large.
// The compiler lets objects have the members that the schema names and arrays the items that it describes, as OpenAI's
// strict mode; where a schema says nothing at all about them, anything is meant.
Json checked_schema(const Json& schema, const std::string& path);

}  // namespace kt
