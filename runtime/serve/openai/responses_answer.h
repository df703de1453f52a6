#pragma once

#include <memory>
#include <string>

#include "runtime/serve/chat/messages.h"
#include "runtime/serve/openai/responses_store.h"
#include "runtime/serve/openai/responses_tools.h"

namespace kt {

// What the answer to a request to /v1/responses needs to know of it.
struct ResponseRequest {
  StoredResponse stored;  // all but the response
  std::string model;
  int64_t created = 0;  // seconds since 1970
  Json echo;            // members of the response that repeat the request
  ResponseTools tools;
  int prompt_tokens = 0;
  bool stream = false;
  bool store = true;
  bool summary = false;  // reasoning is its own summary too
  bool sealed = false;   // and encrypted_content
  bool logprobs = false;
};

// An answer as output items: reasoning, messages and calls in the order in which the model wrote them, one open at a
// time. store: where it is kept, from the start of a stream on.
std::unique_ptr<Answer> make_response_answer(ResponseRequest request, const Chat& chat, const Tokenizer& tokenizer,
                                             ResponseStore& store);

}  // namespace kt
