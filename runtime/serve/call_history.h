#pragma once

#include "runtime/serve/json.h"
#include "runtime/text/tool_parser.h"

namespace kt {

// The number of tool calls in a conversation whose messages were checked. Where the model's format (null: none) has ids
// of its own form, calls and their results get those ids, whatever the client has: models that meet foreign ids in
// the history stop calling or write markup as text.
int number_calls(Json& messages, const ToolFormat* format);

}  // namespace kt
