#pragma once

#include <string>

#include "runtime/serve/json.h"

namespace kt {

// A client's JSON schema as the grammar compiler is to have it. Throws BadRequest for keywords that it would ignore.
// The compiler lets objects have the members that the schema names and arrays the items that it describes, as OpenAI's
// strict mode; where a schema says nothing at all about them, anything is meant.
Json checked_schema(const Json& schema, const std::string& path);

}  // namespace kt
