#pragma once

#include <string>

#include "runtime/serve/fields.h"
#include "runtime/serve/json.h"
#include "runtime/serve/service.h"

namespace kt {

inline constexpr size_t kMaxMessages = 2048;
inline constexpr size_t kMaxTemplateOptions = 128;

// Reads `messages`, `tools`, `tool_choice`, `chat_template_kwargs` (also as `kwargs`), `add_generation_prompt`,
// `reasoning_effort`, `reasoning` and `continue_final_message`, and renders the prompt with the model's template.
// Throws BadRequest, also for what the template refuses.
//
// Before rendering: roles in lower case, developer becomes system; text parts are joined and content null becomes
// ""; arguments of tool calls become objects. Everything else of a message reaches the template as it is.
std::string render_chat(const Fields& fields, const ServedModel& model);

// Whether tools go into the prompt: there are some and tool_choice is not "none".
bool uses_tools(const Fields& fields);

}  // namespace kt
