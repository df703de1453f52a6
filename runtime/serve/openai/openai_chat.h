#pragma once

#include "runtime/serve/errors.h"
#include "runtime/serve/json.h"
#include "runtime/serve/service.h"

namespace kt {

// POST /v1/chat/completions: a body becomes a rendered, tokenised, checked job.
OrError<Job> parse_chat(std::string_view body, const ServedModel& model);

}  // namespace kt
