#pragma once

#include <string>
#include <string_view>

#include "runtime/serve/service.h"

namespace kt {

// Who asks for what: the request that a connection is answering.
struct Asked {
  std::string method = {}, path = {};  // "" when its header could not be read
  std::string address = {};            // of the other side of the connection
  std::string request_id = {};         // X-Request-Id of the answer
  bool named_by_client = false;
  std::string traceparent = {};  // as the client sent it, or ""
};

// A request for text that has ended, and how: its sizes and times, nothing of what it says.
struct EndedRequest {
  std::string id;
  std::string route;
  int status = 200;
  std::string finish_reason, error;  // "stop", ...; word_of an error, or ""
  int prompt_tokens = 0, cached_tokens = 0, completion_tokens = 0;
  double seconds = 0, queue_s = 0, first_token_s = 0;  // the last two are 0 when it had no token
};
void log_end(const Asked& asked, const EndedRequest& request);

// Any other answer: a refusal, of which only debug lines quote what was wrong, or with debug lines alone.
void log_answer(const Asked& asked, const HttpResponse& response);

std::string word_of(const ApiError& error);  // "context_length_exceeded"

// ", from 10.0.0.7, X-Request-Id my-3, traceparent 00-4bf9...-01": what ends each line about a request.
std::string text_of(const Asked& asked);

// Whether `text` is a traceparent of https://www.w3.org/TR/trace-context: version, trace id, parent id, flags.
bool is_traceparent(std::string_view text);

}  // namespace kt
