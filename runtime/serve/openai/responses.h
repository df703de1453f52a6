#pragma once

#include <string>
#include <string_view>

#include "runtime/serve/errors.h"
#include "runtime/serve/openai/responses_store.h"
#include "runtime/serve/service.h"

namespace kt {

// Who asks /v1/responses, and of what server.
struct ResponseContext {
  ResponseStore& store;
  std::string owner;    // whose stored responses may be gone on from
  int max_context = 0;  // tokens that fit: of prompt and answer
};

// POST /v1/responses: a body becomes a rendered, tokenised, checked job.
OrError<Job> parse_response_request(std::string_view body, const ServedModel& model, const ResponseContext& context);

// POST /v1/responses/input_tokens: the body of the answer.
OrError<std::string> count_response_tokens(std::string_view body, const ServedModel& model,
                                           const ResponseContext& context);

}  // namespace kt
