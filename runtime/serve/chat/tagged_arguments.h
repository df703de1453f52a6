#pragma once

#include "runtime/serve/json.h"
#include "runtime/text/answers/call_form.h"

namespace kt {

// The format (runtime/text/grammars/grammar.h) of the arguments of strict tool `i` where the model writes each as a
// tagged parameter. parameters: its own, read with SchemaUse::bare_strings. Throws BadRequest for what can be held only
// where arguments are JSON.
Json tagged_arguments(const ParameterTags& tags, const Json& tools, size_t i, const Json& parameters);

}  // namespace kt
