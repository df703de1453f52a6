#pragma once

#include <string>

#include "runtime/serve/errors.h"
#include "runtime/serve/service.h"

namespace kt {

// POST /v1/messages: a body becomes a rendered, tokenised, checked job.
OrError<Job> parse_messages(std::string_view body, const ServedModel& model);

// POST /v1/messages/count_tokens: the body of the answer, {"input_tokens"}.
OrError<std::string> count_tokens(std::string_view body, const ServedModel& model);

}  // namespace kt
