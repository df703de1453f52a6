#pragma once

#include <optional>
#include <string>

#include "runtime/serve/answer_format.h"
#include "runtime/serve/fields.h"
#include "runtime/serve/json.h"
#include "runtime/serve/service.h"
#include "runtime/text/output_parser.h"

namespace kt {

inline constexpr size_t kMaxMessages = 2048;
inline constexpr size_t kMaxTemplateOptions = 128;

// A conversation made ready for the model.
struct Chat {
  std::string prompt;
  OutputParserOptions output;            // how the answer is to be read
  int calls = 0;                         // tool calls in the conversation
  bool with_tools = false;               // tools are in the prompt
  const ToolFormat* call_ids = nullptr;  // whose ids tool calls get; set when calls are read
  std::optional<AnswerFormat> format;    // of the whole answer
};

// Reads `messages`, `tools`, `tool_choice`, `parallel_tool_calls`, `response_format` and what else demands a form of
// the answer, `chat_template_kwargs` (also as `kwargs`), `add_generation_prompt`, `reasoning_effort`, `reasoning`,
// `continue_final_message`, `separate_reasoning` and `stream_reasoning`, and renders the prompt with the model's
// template. Throws BadRequest, also for what the template refuses.
//
// Before rendering: roles in lower case, developer becomes system; text parts are joined and content null becomes
// ""; arguments of tool calls become objects, or JSON texts where the template takes those; ids of calls get the
// model's form. Everything else of a message reaches the template as it is.
Chat render_chat(const Fields& fields, const ServedModel& model);

// A text of a system message without the line of Anthropic's clients that has a new number in every request: it stands
// at the beginning and would part every prompt from what is cached. Routers between the dialects pass it on.
std::string without_billing(std::string text);

// OpenAI's list in `tools`: functions, each with a name. Throws BadRequest.
void check_tools(const Fields& fields);

// Markup of calls and reasoning is worth nothing without the special tokens in it.
bool needs_special_tokens(const Chat& chat, const ServedModel& model);

}  // namespace kt
