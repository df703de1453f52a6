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

// What a client's JSON schema admits, as a schema that the grammar compiler holds whole (schema_writer.h). Throws
// BadRequest for one that is wrong, admits nothing, or that it cannot hold.
// Objects have the members that the schema names and arrays the items that it describes, as in OpenAI's strict mode;
// where a schema says nothing at all about them, anything is meant.
struct SchemaUse {
  bool an_object = false;     // only the objects among its values
  bool bare_strings = false;  // see schema_writer.h
};
Json checked_schema(const Json& schema, const std::string& path, SchemaUse use = {});

}  // namespace kt
