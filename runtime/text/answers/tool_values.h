#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "runtime/text/answers/tool_schema.h"

namespace kt {

// From the text of a parameter, as a model wrote it between tags, to JSON text.

// The inside of a JSON string: quotes, backslashes and control characters escaped, all else as it is.
std::string json_escaped(std::string_view text);
std::string json_quoted(std::string_view text);

// A parameter whose schema admits `types`. Where strings are admitted, the text is a string, unaltered, unless it is
// exactly the JSON of another admitted type that was named. Else numbers, booleans and null may stand in white space
// and as Python writes them, objects and arrays may be Python's, and what cannot be read is kept as a string. Numbers
// keep their digits. A boolean that is not true is false, as in SGLang.
std::string typed_value(JsonTypes types, std::string_view text);

// Text that the model says is JSON; kept as a string if it is neither JSON nor a Python literal.
std::string json_value(std::string_view text);

// Python's literals (dict, list, tuple, str, int, float, True, False, None) as JSON text; nothing for other text or
// nesting deeper than 64.
std::optional<std::string> json_of_python(std::string_view text);

// A number as Python's int() or float() reads it, as a JSON number with the same digits: "+5" -> "5", ".5" -> "0.5".
std::optional<std::string> json_number(std::string_view text);

}  // namespace kt
