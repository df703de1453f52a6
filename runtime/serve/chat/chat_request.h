#pragma once

#include <optional>
#include <string>
#include <vector>

#include "runtime/serve/chat/answer_format.h"
#include "runtime/serve/fields.h"
#include "runtime/serve/json.h"

namespace kt {

inline constexpr size_t kMaxTemplateOptions = 128;

struct ToolChoice {
  enum class Kind : uint8_t { automatic, none, required } kind = Kind::automatic;
  std::string name;                                 // required: of the only function that may be called; "": any
  std::optional<std::vector<std::string>> allowed;  // functions that may be called; nothing: all
};

// A conversation and how it is to go on, whatever dialect it came in: what render_chat takes.
struct ChatRequest {
  Json messages;               // from read_history
  Json tools = Json::array();  // those that may be called: OpenAI's list, passed by check_tools
  ToolChoice tool_choice;
  bool one_call = false;                                                            // at most one call in the answer
  std::optional<AnswerFormat> format;                                               // of the answer's text
  Json kwargs = {{"add_generation_prompt", true}, {"reasoning_effort", "medium"}};  // variables of the chat template
  bool continue_last = false;      // the answer goes on with the last message, which was the assistant's
  bool separate_reasoning = true;  // reasoning is told apart from the answer
  bool stream_reasoning = true;    // false: it comes in one piece when it has ended
};

// A request of OpenAI's chat: `messages`, `tools`, `tool_choice`, `parallel_tool_calls`, `response_format` and what
// else demands a form of the answer, `chat_template_kwargs` (also as `kwargs`), `add_generation_prompt`,
// `reasoning_effort`, `reasoning`, `continue_final_message`, `separate_reasoning` and `stream_reasoning`. Throws
// BadRequest.
ChatRequest read_chat_request(const Fields& fields);

// OpenAI's list in `tools`: functions, each with a name. Throws BadRequest.
void check_tools(const Fields& fields);

// Every function that the choice names is one of `tools`. Throws BadRequest.
void check_choice(const ToolChoice& choice, const Json& tools);

// Template variables: whether to think, under the names that templates have for it, and how hard, a member in the words
// of newer clients, of which templates know fewer. Throws BadRequest.
void set_thinking(Json& kwargs, bool on);
void set_effort(Json& kwargs, const std::string& effort, const std::string& path);

}  // namespace kt
