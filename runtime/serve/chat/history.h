#pragma once

#include "runtime/serve/dialect.h"
#include "runtime/serve/fields.h"
#include "runtime/serve/json.h"
#include "runtime/text/templates/chat_template.h"

namespace kt {

inline constexpr size_t kMaxMessages = 8192;

// A conversation is history: a client cannot change what was said in it, nor can the user. So whatever is odd about it
// is put right here, once for all dialects, and only what is no conversation at all is refused.

// `messages` of a request, in OpenAI's or Anthropic's form or a mixture, become OpenAI's messages:
//   roles      in lower case; developer becomes system, function tool, an unknown one user
//   content    a string, or a list of text parts where there are several (Anthropic: lines of one string); what a text
//              model cannot read is a line that says so
//   calls      of tool_calls, function_call and tool_use: in tool_calls, each with an id and a name; arguments are an
//              object, or where they are none {"raw_arguments": what was written instead}
//   results    behind their calls and in their order, see order_results
//   reasoning  in reasoning_content, also from `reasoning`, `thinking` and thinking blocks
// Turns of the assistant with nothing in them are left out. Everything else of a message stays as it is.
// Throws BadRequest with a path below "messages".
Json read_history(const Json& messages, Dialect dialect);

// The content of an Anthropic request's `system`. Throws BadRequest.
std::string read_system(const Json& system);

// A history in the form that a template takes: where a template wants one system message, in front, the others join it;
// where it refuses to do without a user's text, there is one.
Json fit_history(Json messages, const TemplateTraits& traits);

// The role of one message: system, user, assistant or tool. Throws BadRequest where it has none.
std::string read_role(const Fields& message);

// A text of a system message without the line of Anthropic's clients that has a new number in every request: it stands
// at the beginning and would part every prompt from what is cached. Routers between the dialects pass it on.
std::string without_billing(std::string text);

// What a model wrote as arguments, or sent as input, as an object.
Json arguments_object(const Json& given);

}  // namespace kt
