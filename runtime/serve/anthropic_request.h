#pragma once

#include "runtime/serve/fields.h"
#include "runtime/serve/json.h"

namespace kt {

// The members of a Messages request that make up the prompt (system, messages, tools, tool_choice, thinking), in the
// words of OpenAI's chat: what render_chat reads. Throws BadRequest with Anthropic's names.
//   thinking in the history      -> reasoning_content
//   tool_use, tool_result        -> tool_calls, messages of the role tool, before the text of the same turn
//   a last message of assistant  -> continue_final_message
// The line "x-anthropic-billing-header: ..." that Claude Code puts first in the system prompt is left out: it differs
// in each request, and behind it no prefix would be found in the cache.
Json to_chat_request(const Fields& request);

}  // namespace kt
