#include "runtime/serve/messages.h"

#include <fmt/format.h>

#include <algorithm>

#include "runtime/serve/call_format.h"
#include "runtime/serve/call_history.h"
#include "runtime/serve/errors.h"
#include "runtime/text/json_exact.h"

namespace kt {
namespace {

std::string at(const std::string& path, size_t index) { return fmt::format("{}[{}]", path, index); }

std::string read_role(const Fields& message) {
  std::string role;
  if (!message.read("role", role)) throw BadRequest(message.path("role"), message.path("role") + ": is required");
  std::transform(role.begin(), role.end(), role.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? char(c - 'A' + 'a') : c; });
  if (role == "developer") return "system";
  for (const char* known : {"system", "user", "assistant", "tool", "function"}) {
    if (role == known) return role;
  }
  throw BadRequest(message.path("role"),
                   fmt::format("{}: \"{}\" is none of system, developer, user, assistant, tool, function",
                               message.path("role"), role));
}

std::string join_parts(const Json& parts, const std::string& path, bool of_system) {
  std::string text;
  for (size_t i = 0; i < parts.size(); ++i) {
    const Fields part(parts[i], at(path, i));
    std::string type, piece;
    if (!part.read("type", type)) throw BadRequest(part.path("type"), part.path("type") + ": is required");
    if (type != "text" && type != "input_text" && type != "output_text")  // the latter are the Responses API's
      throw BadRequest(part.path("type"),
                       fmt::format("{}: this server reads text only, found \"{}\"", part.path("type"), type));
    if (!part.read("text", piece)) throw BadRequest(part.path("text"), part.path("text") + ": is required");
    text += of_system ? without_billing(std::move(piece)) : piece;
  }
  return text;
}

std::string read_content(const Fields& message, const std::string& role) {
  const std::string path = message.path("content");
  const Json* content = message.find("content");
  if (!content) {
    if (role == "user") throw BadRequest(path, path + ": a user message needs content");
    return "";
  }
  const bool of_system = role == "system";
  if (content->is_array()) return join_parts(*content, path, of_system);
  const std::string& text = to_string(*content, path);
  return of_system ? without_billing(text) : text;
}

// {"arguments": "{\"a\": 1}"} -> {"arguments": {"a": 1}}: templates walk over the members.
void parse_arguments(Json& call, const std::string& path) {
  const Fields fields(call, path);
  if (!fields.find("function")) throw BadRequest(fields.path("function"), fields.path("function") + ": is required");
  Json& function = call["function"];
  const Fields inner(function, fields.path("function"));
  std::string name;
  if (!inner.read("name", name)) throw BadRequest(inner.path("name"), inner.path("name") + ": is required");

  const Json* given = inner.find("arguments");
  Json arguments = given ? *given : Json::object();
  const std::string where = inner.path("arguments");
  if (arguments.is_string()) {
    const std::string text = arguments.get<std::string>();
    try {
      arguments = text.empty() ? Json::object() : parse_exact(text);
    } catch (const std::exception& e) {
      throw BadRequest(where, fmt::format("{}: not valid JSON: {}", where, e.what()));
    }
  }
  if (!arguments.is_object())
    throw BadRequest(where, fmt::format("{}: expected a JSON object, found {}", where, kind_of(arguments)));
  function["arguments"] = std::move(arguments);
}

Json read_message(const Json& given, const std::string& path) {
  const Fields fields(given, path);
  const std::string role = read_role(fields);
  const std::string content = read_content(fields, role);

  Json message = given;
  message["role"] = role;
  message["content"] = content;
  if (message.contains("tool_calls")) {
    Json& calls = message["tool_calls"];
    if (calls.is_null() || (calls.is_array() && calls.empty())) {
      message.erase("tool_calls");
    } else if (!calls.is_array()) {
      throw BadRequest(fields.path("tool_calls"),
                       fmt::format("{}: expected a list, found {}", fields.path("tool_calls"), kind_of(calls)));
    } else {
      for (size_t i = 0; i < calls.size(); ++i) parse_arguments(calls[i], at(fields.path("tool_calls"), i));
    }
  }
  return message;
}

Json read_messages(const Fields& fields) {
  const std::string path = fields.path("messages");
  const Json* list = fields.find("messages");
  if (!list) throw BadRequest(path, path + ": is required");
  if (!list->is_array()) throw BadRequest(path, fmt::format("{}: expected a list, found {}", path, kind_of(*list)));
  if (list->empty()) throw BadRequest(path, "messages cannot be empty");
  if (list->size() > kMaxMessages)
    throw BadRequest(path, fmt::format("{}: at most {} messages, found {}", path, kMaxMessages, list->size()));
  Json messages = Json::array();
  for (size_t i = 0; i < list->size(); ++i) messages.push_back(read_message((*list)[i], at(path, i)));
  return messages;
}

struct ToolChoice {
  enum class Kind : uint8_t { automatic, none, required } kind = Kind::automatic;
  std::string name;                                 // required: of the only function that may be called; "": any
  std::optional<std::vector<std::string>> allowed;  // functions that may be called; nothing: all
};

// The name in {"type": "function", "function": {"name": ...}}, or with "name" outside, as the Responses API has it.
std::string read_function_name(const Json& value, const std::string& path) {
  const Fields given(value, path);
  const Json* function = given.find("function");
  std::string name;
  if (!(function ? Fields(*function, given.path("function")) : given).read("name", name) || name.empty())
    throw BadRequest(path,
                     fmt::format("{}: expected {{\"type\": \"function\", \"function\": {{\"name\": ...}}}}", path));
  return name;
}

// {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [...]}}; also with both outside.
ToolChoice read_allowed_tools(const Fields& choice) {
  const Json* inner = choice.find("allowed_tools");
  const Fields given = inner ? Fields(*inner, choice.path("allowed_tools")) : choice;
  std::string mode = "auto";
  given.read("mode", mode);
  if (mode != "auto" && mode != "required")
    throw BadRequest(given.path("mode"), fmt::format("{}: \"{}\" is none of auto, required", given.path("mode"), mode));
  const Json* tools = given.find("tools");
  const std::string path = given.path("tools");
  if (!tools || !tools->is_array() || tools->empty())
    throw BadRequest(path, path + ": expected a list of the functions that may be called");
  std::vector<std::string> names;
  for (size_t i = 0; i < tools->size(); ++i) names.push_back(read_function_name((*tools)[i], at(path, i)));
  return {mode == "auto" ? ToolChoice::Kind::automatic : ToolChoice::Kind::required, "", std::move(names)};
}

// "auto" (also for null), "none", "required", or an object that names functions, as the API or as SDKs write it.
ToolChoice read_tool_choice(const Fields& fields) {
  using enum ToolChoice::Kind;
  const Json* choice = fields.find("tool_choice");
  if (!choice) return {};
  const std::string path = fields.path("tool_choice");
  if (choice->is_object()) {
    const Fields given(*choice, path);
    std::string type;
    if (given.read("type", type) && type == "allowed_tools") return read_allowed_tools(given);
    return {required, read_function_name(*choice, path), std::nullopt};
  }
  const std::string& word = to_string(*choice, path);
  if (word == "auto") return {};
  if (word == "none") return {none, "", std::nullopt};
  if (word == "required") return {required, "", std::nullopt};
  throw BadRequest(path, fmt::format("{}: \"{}\" is none of none, auto, required", path, word));
}

// Newer clients have more words for the effort than templates know.
std::string map_effort(const std::string& effort, const std::string& path) {
  if (effort == "none" || effort == "minimal" || effort == "low") return "low";
  if (effort == "medium") return "medium";
  if (effort == "high" || effort == "xhigh" || effort == "max") return "high";
  throw BadRequest(path,
                   fmt::format("{}: \"{}\" is none of none, minimal, low, medium, high, xhigh, max", path, effort));
}

Json read_kwargs(const Fields& fields) {
  Json kwargs = {{"add_generation_prompt", true}, {"reasoning_effort", "medium"}};
  const auto set_thinking = [&](bool on) { kwargs["thinking"] = kwargs["enable_thinking"] = on; };

  std::string effort;
  std::string path = fields.path("reasoning_effort");
  fields.read("reasoning_effort", effort);
  if (const Json* reasoning = fields.find("reasoning")) {
    const Fields inner(*reasoning, fields.path("reasoning"));
    if (inner.read("effort", effort)) path = inner.path("effort");
    bool enabled = true;
    if (inner.read("enabled", enabled)) set_thinking(enabled);
  }
  if (!effort.empty()) kwargs["reasoning_effort"] = map_effort(effort, path);
  if (effort == "none") set_thinking(false);

  bool generation_prompt = true;
  fields.read("add_generation_prompt", generation_prompt);
  kwargs["add_generation_prompt"] = generation_prompt;
  for (const char* name : {"kwargs", "chat_template_kwargs"}) {
    const Json* given = fields.find(name);
    if (!given) continue;
    const Fields check(*given, fields.path(name));
    if (given->size() > kMaxTemplateOptions)
      throw BadRequest(fields.path(name), fmt::format("{}: at most {} options, found {}", fields.path(name),
                                                      kMaxTemplateOptions, given->size()));
    for (const char* reserved : {"messages", "tools", "documents"}) {
      if (given->contains(reserved))
        throw BadRequest(check.path(reserved), fmt::format("{}: is not a template option", check.path(reserved)));
    }
    for (const auto& [key, value] : given->items()) kwargs[key] = value;
  }
  return kwargs;
}

void write_arguments(Json& messages) {
  for (Json& message : messages) {
    const auto calls = message.find("tool_calls");
    if (calls == message.end()) continue;
    for (Json& call : *calls) call["function"]["arguments"] = dump_exact(call["function"]["arguments"]);
  }
}

// The tools that may be called: only these are shown to the model. Each says its type, as templates may ask for it.
Json read_tools(const Fields& fields, const ToolChoice& choice) {
  const Json* given = fields.find("tools");
  Json tools = Json::array();
  if (!given) return tools;
  for (const Json& tool : *given) {
    const auto& name = tool["function"]["name"].get_ref<const std::string&>();
    if (choice.allowed && std::find(choice.allowed->begin(), choice.allowed->end(), name) == choice.allowed->end())
      continue;
    tools.push_back({{"type", "function"}});
    tools.back().update(tool);
  }
  return tools;
}

// Every function that `tool_choice` names is one of `tools`.
void check_choice(const Fields& fields, const ToolChoice& choice, const Json& tools) {
  const std::string path = fields.path("tool_choice");
  if (choice.kind == ToolChoice::Kind::required && tools.empty() && !choice.allowed)
    throw BadRequest(path, path + ": there are no tools to call");
  std::vector<std::string> names = choice.allowed.value_or(std::vector<std::string>());
  if (!choice.name.empty()) names.push_back(choice.name);
  for (const std::string& name : names) {
    if (std::none_of(tools.begin(), tools.end(), [&](const Json& tool) { return tool["function"]["name"] == name; }))
      throw BadRequest(path, fmt::format("Tool '{}' not found in tools list.", name));
  }
}

bool one_call(const Fields& fields) {
  bool parallel = true;
  fields.read("parallel_tool_calls", parallel);
  return !parallel;
}

// The calls that the client demands, in the one form that every model can be held to, whatever its own is.
AnswerFormat forced_calls(const Fields& fields, const ToolChoice& choice, const Json& tools) {
  return {calls_array(tools, choice.name, !choice.name.empty() || one_call(fields)), fields.path("tool_choice")};
}

// Calls that the model may make, or not: in its own form, and where the answer has to have a form, instead of it.
std::optional<AnswerFormat> free_calls(const Fields& fields, const Json& tools, const CallForm* form,
                                       std::optional<AnswerFormat> answer) {
  const bool one = one_call(fields);
  if (!form) {
    const std::string param = answer ? answer->param : fields.path("tools");
    if (answer || has_strict(tools))
      throw BadRequest(param,
                       fmt::format("{}: this server does not know how the model writes calls, so it cannot hold {}; it "
                                   "takes --tool-call-parser, or another \"tool_choice\"",
                                   param, answer ? "answers to a form beside them" : "them to be strict"),
                       "unsupported");
    return std::nullopt;
  }
  if (answer) {
    const Json calls = calls_alone(*form, tools, one);
    return AnswerFormat{{{"type", "or"}, {"elements", Json::array({calls, std::move(answer->format)})}}, answer->param};
  }
  if (!has_strict(tools) && !one) return std::nullopt;
  return AnswerFormat{calls_amid_text(*form, tools, one), fields.path("tools"), /*amid_text=*/true};
}

// Calls that are forced are the whole answer: a form of its text has nothing to hold.
std::optional<AnswerFormat> read_format(const Fields& fields, const ToolChoice& choice, const Json& tools,
                                        const CallForm* form) {
  std::optional<AnswerFormat> answer = read_answer_format(fields);
  if (choice.kind == ToolChoice::Kind::required) return forced_calls(fields, choice, tools);
  if (choice.kind == ToolChoice::Kind::none || tools.empty()) return answer;
  return free_calls(fields, tools, form, std::move(answer));
}

bool is_type(const Json& word) {
  constexpr std::string_view kTypes[] = {"object", "array", "string", "number", "integer", "boolean", "null"};
  return word.is_string() &&
         std::find(std::begin(kTypes), std::end(kTypes), word.get_ref<const std::string&>()) != std::end(kTypes);
}

// Templates and parsers walk over a function's parameters: what every JSON schema has to be, no more.
void check_schema(const Json& schema, const std::string& path) {
  if (schema.is_boolean()) return;
  const Fields fields(schema, path);
  const Json* type = fields.find("type");
  const bool known = !type || is_type(*type) || (type->is_array() && std::all_of(type->begin(), type->end(), is_type));
  if (!known)
    throw BadRequest(fields.path("type"), fmt::format("{}: {} is no type of a JSON schema", fields.path("type"),
                                                      type->dump(-1, ' ', false, Json::error_handler_t::replace)));
  if (const Json* properties = fields.find("properties")) {
    const Fields named(*properties, fields.path("properties"));
    for (const auto& [name, property] : properties->items()) check_schema(property, named.path(name));
  }
  if (const Json* items = fields.find("items"); items && !items->is_array()) check_schema(*items, fields.path("items"));
}

}  // namespace

std::string without_billing(std::string text) {
  if (!text.starts_with("x-anthropic-billing-header:")) return text;
  const size_t end = text.find('\n');
  return end == text.npos ? "" : text.substr(end + 1);
}

void check_tools(const Fields& fields) {
  const Json* tools = fields.find("tools");
  if (!tools) return;
  const std::string path = fields.path("tools");
  if (!tools->is_array()) throw BadRequest(path, fmt::format("{}: expected a list, found {}", path, kind_of(*tools)));
  for (size_t i = 0; i < tools->size(); ++i) {
    const Fields tool((*tools)[i], at(path, i));
    std::string type = "function", name;
    tool.read("type", type);
    if (type != "function")
      throw BadRequest(tool.path("type"),
                       fmt::format("{}: only \"function\" is known, found \"{}\"", tool.path("type"), type));
    const Json* function = tool.find("function");
    if (!function) throw BadRequest(tool.path("function"), tool.path("function") + ": is required");
    const Fields inner(*function, tool.path("function"));
    if (!inner.read("name", name) || name.empty())
      throw BadRequest(inner.path("name"), inner.path("name") + ": is required");
    if (const Json* parameters = inner.find("parameters")) {
      Fields(*parameters, inner.path("parameters"));
      check_schema(*parameters, inner.path("parameters"));
    }
    bool strict = false;
    inner.read("strict", strict);
  }
}

bool needs_special_tokens(const Chat& chat, const ServedModel& model) {
  if (chat.with_tools) return true;
  const std::optional<int32_t> close = model.tokenizer->find(ReasoningParser::kClose);
  return chat.output.reasoning && close && model.tokenizer->is_special(*close);
}

Chat render_chat(const Fields& fields, const ServedModel& model) {
  if (!model.chat_template)
    throw BadRequest("messages",
                     "this model has no chat template; use /v1/completions, or start the server with --chat-template");
  Json messages = read_messages(fields);
  check_tools(fields);
  Chat chat;
  const ToolChoice choice = read_tool_choice(fields);
  const bool forced = choice.kind == ToolChoice::Kind::required;
  const Json tool_list = read_tools(fields, choice);
  check_choice(fields, choice, tool_list);
  chat.with_tools = !tool_list.empty() && choice.kind != ToolChoice::Kind::none;
  const CallForm* const form = model.tools ? find_call_form(*model.tools) : nullptr;
  chat.format = read_format(fields, choice, tool_list, form);
  const std::string tools = chat.with_tools ? dump_exact(tool_list) : "";
  const Json kwargs = read_kwargs(fields);

  chat.calls = number_calls(messages, model.tools);
  bool go_on = false;  // an answer that the model is to go on with stands after the generation prompt
  fields.read("continue_final_message", go_on);
  if (go_on) {
    const Json& last = messages.back();
    if (last["role"] != "assistant")
      throw BadRequest("continue_final_message", "continue_final_message: the last message must be the assistant's");
    if (chat.format && !chat.format->amid_text)
      throw BadRequest(chat.format->param, chat.format->param + ": an answer that is begun cannot be held to a form");
    chat.output.continued = last["content"].get<std::string>();
    messages.erase(messages.size() - 1);
  }
  if (model.chat_template->takes_argument_text()) write_arguments(messages);
  try {
    chat.prompt = model.chat_template->render(dump_exact(messages), tools, dump_exact(kwargs));
  } catch (const TemplateError& e) {
    throw BadRequest("messages", fmt::format("the chat template refuses these messages: {}", e.what()));
  }

  // Calls are found behind reasoning only where it is told apart.
  bool separate = true;
  fields.read("separate_reasoning", separate);
  fields.read("stream_reasoning", chat.output.stream_reasoning);
  const bool reasons = model.reasoning && starts_in_reasoning(*model.reasoning, chat.prompt, kwargs);
  if (model.reasoning && (separate || forced)) {
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
    chat.output.tool_list = tool_list;
    chat.call_ids = model.tools ? model.tools : chat.output.tools;
  }
  chat.prompt += chat.output.continued.value_or("");
  return chat;
}

}  // namespace kt
