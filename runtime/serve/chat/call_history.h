#pragma once

#include "runtime/serve/json.h"
#include "runtime/text/answers/tool_parser.h"

namespace kt {

inline bool has_calls(const Json& message) { return message.contains("tool_calls"); }

// Puts the results of tool calls behind their calls and in the order of the calls, since many templates print no ids:
// their models tell results apart by their place. What clients said between a call and its result comes behind it.
//   a result belongs to the call whose id it names; without such a one, to the first call before it that has none
//   a call without a result, with more messages behind it, gets one that says so
//   a result without a call (its call fell to a compaction) becomes a user's message
// Every call and its result have one id, made up where there is none.
// messages: OpenAI's, checked; each of tool_calls is an object.
Json order_results(Json messages);

// The number of tool calls in an ordered conversation. Where the model's format (null: none) has ids of its own form,
// calls and their results get those ids, whatever the client has: models that meet foreign ids in the history stop
// calling or write markup as text.
int number_calls(Json& messages, const ToolFormat* format);

}  // namespace kt
