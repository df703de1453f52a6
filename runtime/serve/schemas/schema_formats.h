#pragma once

#include <optional>
#include <string_view>

#include "runtime/text/grammars/schema_pattern.h"

namespace kt {

// The strings that have the shape of a "format": of all that is of that format, what can be told without counting days
// or looking names up. Nothing: a format of no shape, which says nothing about values (JSON Schema, section 7.2.3).
std::optional<SchemaPattern> format_shape(std::string_view name);

// Formats of JSON Schema's own list that have no shape here.
bool is_unheld_format(std::string_view name);

}  // namespace kt
