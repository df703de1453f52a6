#pragma once

#include <string>

#include "runtime/serve/errors.h"
#include "runtime/serve/service.h"

namespace kt {

// Parsers on their own, for texts that came another way. Each takes a request body and gives the answer's body. A
// parser that is not named is the server's.

// {"text", "tools", "tool_call_parser"} -> {"normal_text", "calls": [{"tool_index", "name", "parameters"}]}
OrError<std::string> parse_function_call(std::string_view body, const ServedModel& model);

// {"text", "reasoning_parser", "force_reasoning"} -> {"reasoning_text", "text"}
OrError<std::string> separate_reasoning(std::string_view body, const ServedModel& model);

}  // namespace kt
