#pragma once

#include <string>

#include "runtime/serve/errors.h"
#include "runtime/serve/json.h"
#include "runtime/serve/service.h"

namespace kt {

// Each takes a request body and gives the answer's body.

// {"prompt": text or list} or {"content": text} or {"messages", "tools", "chat_template_kwargs"}
// -> {"tokens", "count", "max_model_len"}, with "return_token_strs" also {"token_strs"}; lists for a list of prompts.
OrError<std::string> tokenize(std::string_view body, const ServedModel& model);

// {"tokens": ids or list of ids, "skip_special_tokens"} -> the text under the three names that clients know.
OrError<std::string> detokenize(std::string_view body, const ServedModel& model);

// {"messages", "tools", "kwargs"} -> {"prompt"}
OrError<std::string> apply_template(std::string_view body, const ServedModel& model);

}  // namespace kt
