#pragma once

#include <string>

#include "runtime/serve/json.h"
#include "runtime/text/answers/call_form.h"

namespace kt {

// Formats (runtime/text/grammars/grammar.h) of tool calls. tools: OpenAI's list, checked by check_tools. Throw
// BadRequest for parameters of strict tools that no grammar can hold; those of others become any object. one_call: at
// most one.

// A JSON array of {"name", "parameters"}, one element for each call: what the json_array tool parser reads.
// `name`: the only function that may be called, "": any.
Json calls_array(const Json& tools, const std::string& name, bool one_call);

// Is the model to be held to the parameters of one of the tools (`strict`)?
bool has_strict(const Json& tools);

// Calls in the model's own form amid whatever text. The arguments of strict tools are held to their parameters, those
// of others are what comes up to the end of the call.
Json calls_amid_text(const CallForm& form, const Json& tools, bool one_call);

// The same, nothing but calls, at least one.
Json calls_alone(const CallForm& form, const Json& tools, bool one_call);

// What such calls begin with, and nothing else may.
Json call_beginnings(const CallForm& form);

}  // namespace kt
