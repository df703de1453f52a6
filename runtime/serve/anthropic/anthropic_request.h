#pragma once

#include "runtime/serve/chat/chat_request.h"
#include "runtime/serve/fields.h"

namespace kt {

// The members of a Messages request that make up the prompt: system, messages, tools, tool_choice, thinking and the
// form of the answer. A last message of the assistant is continued. Throws BadRequest with Anthropic's names.
ChatRequest read_messages_request(const Fields& request);

}  // namespace kt
