#include "runtime/serve/chat/chat_request.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "runtime/serve/chat/history.h"
#include "runtime/serve/errors.h"

namespace kt {
namespace {

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
  for (size_t i = 0; i < tools->size(); ++i) names.push_back(read_function_name((*tools)[i], element_of(path, i)));
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

// The tools that may be called: only these are shown to the model. Each says its type, as templates may ask for it.
Json read_tools(const Fields& fields, const ToolChoice& choice) {
  Json tools = Json::array();
  const Json* given = fields.find("tools");
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

// Newer clients have more words for the effort than templates know.
std::string map_effort(const std::string& effort, const std::string& path) {
  if (effort == "none" || effort == "minimal" || effort == "low") return "low";
  if (effort == "medium") return "medium";
  if (effort == "high" || effort == "xhigh" || effort == "max") return "high";
  throw BadRequest(path,
                   fmt::format("{}: \"{}\" is none of none, minimal, low, medium, high, xhigh, max", path, effort));
}

void read_kwargs(const Fields& fields, Json& kwargs) {
  std::string effort;
  std::string path = fields.path("reasoning_effort");
  fields.read("reasoning_effort", effort);
  if (const Json* reasoning = fields.find("reasoning")) {
    const Fields inner(*reasoning, fields.path("reasoning"));
    if (inner.read("effort", effort)) path = inner.path("effort");
    bool enabled = true;
    if (inner.read("enabled", enabled)) set_thinking(kwargs, enabled);
  }
  if (!effort.empty()) set_effort(kwargs, effort, path);

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

void set_thinking(Json& kwargs, bool on) { kwargs["thinking"] = kwargs["enable_thinking"] = on; }

void set_effort(Json& kwargs, const std::string& effort, const std::string& path) {
  kwargs["reasoning_effort"] = map_effort(effort, path);
  if (effort == "none") set_thinking(kwargs, false);
}

void check_tools(const Fields& fields) {
  const Json* tools = fields.find("tools");
  if (!tools) return;
  const std::string path = fields.path("tools");
  if (!tools->is_array()) throw BadRequest(path, fmt::format("{}: expected a list, found {}", path, kind_of(*tools)));
  for (size_t i = 0; i < tools->size(); ++i) {
    const Fields tool((*tools)[i], element_of(path, i));
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

void check_choice(const ToolChoice& choice, const Json& tools) {
  const std::string path = "tool_choice";
  if (choice.kind == ToolChoice::Kind::required && tools.empty() && !choice.allowed)
    throw BadRequest(path, path + ": there are no tools to call");
  std::vector<std::string> names = choice.allowed.value_or(std::vector<std::string>());
  if (!choice.name.empty()) names.push_back(choice.name);
  for (const std::string& name : names) {
    if (std::none_of(tools.begin(), tools.end(), [&](const Json& tool) { return tool["function"]["name"] == name; }))
      throw BadRequest(path, fmt::format("Tool '{}' not found in tools list.", name));
  }
}

ChatRequest read_chat_request(const Fields& fields) {
  ChatRequest request;
  const Json* messages = fields.find("messages");
  if (!messages) throw BadRequest("messages", "messages: is required");
  request.messages = read_history(*messages, Dialect::openai);
  check_tools(fields);
  request.tool_choice = read_tool_choice(fields);
  request.tools = read_tools(fields, request.tool_choice);
  bool parallel = true;
  fields.read("parallel_tool_calls", parallel);
  request.one_call = !parallel;
  request.format = read_answer_format(fields);
  read_kwargs(fields, request.kwargs);
  fields.read("continue_final_message", request.continue_last);
  if (request.continue_last && read_role(Fields(messages->back())) != "assistant")
    throw BadRequest("continue_final_message", "continue_final_message: the last message must be the assistant's");
  fields.read("separate_reasoning", request.separate_reasoning);
  fields.read("stream_reasoning", request.stream_reasoning);
  return request;
}

}  // namespace kt
