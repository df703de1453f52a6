#include "runtime/serve/anthropic/anthropic_request.h"

#include <fmt/format.h>

#include "runtime/serve/chat/history.h"
#include "runtime/serve/errors.h"

namespace kt {
namespace {

const Json& require_list(const Fields& fields, std::string_view name) {
  const Json& list = fields.require(name);
  if (!list.is_array())
    throw BadRequest(fields.path(name), fmt::format("{}: expected a list, found {}", fields.path(name), kind_of(list)));
  return list;
}

Json read_messages(const Fields& request) {
  const Json& given = require_list(request, "messages");
  if (given.empty()) throw BadRequest("messages", "messages: at least one message is required");
  Json messages = read_history(given, Dialect::anthropic);
  const Json* system = request.find("system");
  const std::string text = system ? read_system(*system) : "";
  if (!text.empty()) messages.insert(messages.begin(), Json{{"role", "system"}, {"content", text}});
  return messages;
}

Json read_tools(const Json& given) {
  Json tools = Json::array();
  for (size_t i = 0; i < given.size(); ++i) {
    const Fields tool(given[i], element_of("tools", i));
    std::string type = "custom", description;
    tool.read("type", type);
    if (type != "custom")
      throw BadRequest(tool.path("type"),
                       fmt::format("{}: this server has no tools of its own such as \"{}\"", tool.path("type"), type));
    Json function = {{"name", tool.require_string("name")}};
    if (tool.read("description", description)) function["description"] = description;
    const Json& schema = tool.require("input_schema");
    Fields(schema, tool.path("input_schema"));
    function["parameters"] = schema;
    bool strict = false;
    if (tool.read("strict", strict)) function["strict"] = strict;
    tools.push_back({{"type", "function"}, {"function", std::move(function)}});
  }
  return tools;
}

ToolChoice tool_choice_of(const Fields& choice) {
  using enum ToolChoice::Kind;
  const std::string& type = choice.require_string("type");
  if (type == "auto") return {};
  if (type == "none") return {none, "", std::nullopt};
  if (type == "any") return {required, "", std::nullopt};
  if (type == "tool") return {required, choice.require_string("name"), std::nullopt};
  throw BadRequest(choice.path("type"),
                   fmt::format("{}: \"{}\" is none of auto, any, tool, none", choice.path("type"), type));
}

// {"type": "json_schema", "schema": ...}, where the API has it now or where it was first.
const Json* read_output_format(const Fields& request) {
  if (const Json* format = request.find("output_format")) return format;
  const Json* config = request.find("output_config");
  return config ? Fields(*config, "output_config").find("format") : nullptr;
}

}  // namespace

ChatRequest read_messages_request(const Fields& request) {
  ChatRequest chat;
  chat.messages = read_messages(request);
  if (!chat.messages.empty()) {
    const Json& last = chat.messages.back();
    chat.continue_last = last["role"] == "assistant" && !last.contains("tool_calls");
  }
  if (request.find("tools")) {
    const Json tools = {{"tools", read_tools(require_list(request, "tools"))}};
    check_tools(Fields(tools));
    chat.tools = tools["tools"];
  }
  if (const Json* choice = request.find("tool_choice")) {
    const Fields fields(*choice, "tool_choice");
    chat.tool_choice = tool_choice_of(fields);
    fields.read("disable_parallel_tool_use", chat.one_call);
  }
  if (const Json* given = read_output_format(request)) {
    const Fields format(*given, "output_format");
    const Json openai = {
        {"response_format", {{"type", format.require_string("type")}, {"schema", format.require("schema")}}}};
    chat.format = read_answer_format(Fields(openai));
  }
  if (const Json* thinking = request.find("thinking")) {
    const std::string& type = Fields(*thinking, "thinking").require_string("type");
    if (type == "enabled" || type == "disabled") set_thinking(chat.kwargs, type == "enabled");
  }
  return chat;
}

}  // namespace kt
