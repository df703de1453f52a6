#pragma once

#include <string>
#include <string_view>

#include "runtime/serve/errors.h"
#include "runtime/serve/json.h"

namespace kt {

// Whose API a route speaks: what its errors and the pings of its streams look like.
enum class Dialect : uint8_t { openai, anthropic };

// A server-sent event that has its type as a name and, in front, as a member.
std::string named_event(std::string_view type, Json members);

// The status and body of an error answer. Anthropic's clients know "overloaded" (529) where others know 503.
int error_status(const ApiError& error, Dialect dialect);
std::string error_body(const ApiError& error, Dialect dialect);

// The last events of a stream that fails, and what a silent stream sends so that nobody takes it for dead.
std::string error_events(const ApiError& error, Dialect dialect);
std::string_view ping_events(Dialect dialect);

}  // namespace kt
