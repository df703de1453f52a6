#include "runtime/serve/chat/messages.h"

#include <fmt/format.h>

#include "runtime/serve/chat/call_format.h"
#include "runtime/serve/chat/call_history.h"
#include "runtime/serve/chat/content_blocks.h"
#include "runtime/serve/chat/history.h"
#include "runtime/serve/errors.h"
#include "runtime/text/json/json_exact.h"

namespace kt {
namespace {

// The calls that the client demands, in the one form that every model can be held to, whatever its own is.
AnswerFormat forced_calls(const ChatRequest& request) {
  const std::string& name = request.tool_choice.name;
  return {calls_array(request.tools, name, !name.empty() || request.one_call), "tool_choice"};
}

// Calls that the model may make, or not: in its own form, and where the answer has to have a form, instead of it.
std::optional<AnswerFormat> free_calls(const ChatRequest& request, const CallForm* form) {
  const Json& tools = request.tools;
  std::optional<AnswerFormat> answer = request.format;
  if (!form) {
    const std::string param = answer ? answer->param : "tools";
    if (answer || has_strict(tools))
      throw BadRequest(param,
                       fmt::format("{}: this server does not know how the model writes calls, so it cannot hold {}; it "
                                   "takes --tool-call-parser, or another \"tool_choice\"",
                                   param, answer ? "answers to a form beside them" : "them to be strict"),
                       "unsupported");
    return std::nullopt;
  }
  if (answer) {
    const Json calls = calls_alone(*form, tools, request.one_call);
    return AnswerFormat{{{"type", "or"}, {"elements", Json::array({calls, std::move(answer->format)})}}, answer->param};
  }
  if (!has_strict(tools) && !request.one_call) return std::nullopt;
  return AnswerFormat{calls_amid_text(*form, tools, request.one_call), "tools", /*amid_text=*/true};
}

// Calls that are forced are the whole answer: a form of its text has nothing to hold.
std::optional<AnswerFormat> format_of(const ChatRequest& request, const CallForm* form) {
  if (request.tool_choice.kind == ToolChoice::Kind::required) return forced_calls(request);
  if (request.tool_choice.kind == ToolChoice::Kind::none || request.tools.empty()) return request.format;
  return free_calls(request, form);
}

bool has(std::string_view text, std::string_view part) { return text.find(part) != text.npos; }

std::string render(const ChatTemplate& chat_template, const Json& messages, const std::string& tools,
                   const Json& kwargs) {
  try {
    return chat_template.render(dump_exact(messages), tools, dump_exact(kwargs));
  } catch (const TemplateError& e) {
    throw BadRequest("messages", fmt::format("the chat template refuses these messages: {}", e.what()));
  }
}

// The prompt of an answer that goes on with the last message. The template prints that turn as one of the history, as
// models saw it in training, and the prompt ends where its text does: behind the reasoning, whatever there is of it.
std::string render_begun(const ChatTemplate& chat_template, Json messages, const std::string& tools,
                         const Json& kwargs) {
  constexpr std::string_view kMark = "@@the-answer-goes-on-here@@";
  const std::string begun = messages.back()["content"].get<std::string>();
  if (!has(begun, ReasoningParser::kOpen) && !has(begun, ReasoningParser::kClose)) {
    messages.back()["content"] = kMark;
    Json without_next = kwargs;
    without_next["add_generation_prompt"] = false;
    const std::string turn = render(chat_template, messages, tools, without_next);
    if (const size_t at = turn.rfind(kMark); at != turn.npos) return turn.substr(0, at) + begun;
  }
  // Reasoning that the client begins itself, which templates cut out of the text: behind the generation prompt.
  messages.erase(messages.size() - 1);
  const std::string prompt = render(chat_template, messages, tools, kwargs);
  const bool open = trimmed(prompt).ends_with(ReasoningParser::kOpen);
  const bool opens = begun.starts_with(ReasoningParser::kOpen);
  return prompt + (open && opens ? begun.substr(ReasoningParser::kOpen.size()) : begun);
}

}  // namespace

void adapt_sampling(const Chat& chat, const ServedModel& model, SamplingParams& sampling) {
  const bool stops = !sampling.stop.empty() || sampling.stop_regex;
  if (stops && chat.output.reasoning)
    sampling.reasoning = std::make_shared<const ReasoningParser>(make_reasoning_parser(chat.output));
  const std::optional<int32_t> close = model.tokenizer->find(ReasoningParser::kClose);
  const bool special_close = chat.output.reasoning && close && model.tokenizer->is_special(*close);
  if (chat.with_tools || special_close) sampling.skip_special_tokens = false;
}

Chat render_chat(const Fields& fields, const ServedModel& model) {
  return render_chat(read_chat_request(fields), model);
}

Chat render_chat(const ChatRequest& request, const ServedModel& model) {
  if (!model.chat_template)
    throw BadRequest("messages",
                     "this model has no chat template; use /v1/completions, or start the server with --chat-template");
  check_choice(request.tool_choice, request.tools);
  Chat chat;
  const bool forced = request.tool_choice.kind == ToolChoice::Kind::required;
  chat.with_tools = !request.tools.empty() && request.tool_choice.kind != ToolChoice::Kind::none;
  const CallForm* const form = model.tools ? find_call_form(*model.tools) : nullptr;
  chat.format = format_of(request, form);
  const std::string tools = chat.with_tools ? dump_exact(request.tools) : "";

  Json messages = fit_history(request.messages, model.chat_template->traits());
  chat.calls = number_calls(messages, model.tools);
  // An empty last turn was left out of the history: then there is nothing to go on with.
  if (request.continue_last && !messages.empty() && messages.back()["role"] == "assistant") {
    if (chat.format && !chat.format->amid_text)
      throw BadRequest(chat.format->param, chat.format->param + ": an answer that is begun cannot be held to a form");
    messages.back()["content"] = text_of(messages.back()["content"], " ");
    chat.output.continued = messages.back()["content"].get<std::string>();
    chat.prompt = render_begun(*model.chat_template, messages, tools, request.kwargs);
  } else {
    chat.prompt = render(*model.chat_template, messages, tools, request.kwargs);
  }

  // Calls are found behind reasoning only where it is told apart.
  const bool begun_answer = chat.output.continued && !has(*chat.output.continued, ReasoningParser::kOpen);
  const bool reasons =
      model.reasoning && !begun_answer && starts_in_reasoning(*model.reasoning, chat.prompt, request.kwargs);
  chat.output.stream_reasoning = request.stream_reasoning;
  if (model.reasoning && (request.separate_reasoning || forced)) {
    chat.output.reasoning = model.reasoning;
    chat.output.in_reasoning = reasons;
  }
  if (chat.format && reasons && !chat.format->amid_text) {
    const bool may_call = form && chat.with_tools && !forced;
    chat.format->format =
        behind_reasoning(std::move(chat.format->format), may_call ? call_beginnings(*form) : Json::array());
  }
  chat.output.tools = forced ? find_tool_format("json_array") : chat.with_tools ? model.tools : nullptr;
  if (chat.output.tools) {
    chat.output.tool_list = request.tools;
    chat.call_ids = model.tools ? model.tools : chat.output.tools;
  }
  return chat;
}

}  // namespace kt
