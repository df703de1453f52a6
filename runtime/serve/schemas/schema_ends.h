#pragma once

#include <optional>

#include "runtime/serve/json.h"

namespace kt {

// A schema as SchemaWriter writes it, without what admits no value of finite size: a member that is required to hold
// its like, and so on for ever. What is optional and never ends is left out. Nothing: the schema itself is such.
std::optional<Json> without_endless(Json schema);

}  // namespace kt
