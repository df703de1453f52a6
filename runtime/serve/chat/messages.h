#pragma once

#include <optional>
#include <string>

#include "runtime/serve/chat/answer_format.h"
#include "runtime/serve/chat/chat_request.h"
#include "runtime/serve/fields.h"
#include "runtime/serve/service.h"
#include "runtime/text/answers/output_parser.h"

namespace kt {

// A conversation made ready for the model.
struct Chat {
  std::string prompt;
  OutputParserOptions output;            // how the answer is to be read
  int calls = 0;                         // tool calls in the conversation
  bool with_tools = false;               // tools are in the prompt
  const ToolFormat* call_ids = nullptr;  // whose ids tool calls get; set when calls are read
  std::optional<AnswerFormat> format;    // of the whole answer
};

// Renders the prompt with the model's template, for which the history is fitted to it (see history.h). Throws
// BadRequest, also for what the template refuses.
Chat render_chat(const ChatRequest& request, const ServedModel& model);
Chat render_chat(const Fields& fields, const ServedModel& model);  // of an OpenAI request, see read_chat_request

// What reading the answer asks of sampling, after its members were read: markup of calls and reasoning is worth nothing
// without the special tokens in it, and stops are for the answer, not for the reasoning before it.
void adapt_sampling(const Chat& chat, const ServedModel& model, SamplingParams& sampling);

}  // namespace kt
