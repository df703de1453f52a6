#include "runtime/serve/anthropic_request.h"

#include <fmt/format.h>

#include "runtime/serve/errors.h"
#include "runtime/serve/messages.h"
#include "runtime/text/json_exact.h"

namespace kt {
namespace {

std::string at(const std::string& path, size_t index) { return fmt::format("{}[{}]", path, index); }

const Json& require(const Fields& fields, std::string_view name) {
  const Json* value = fields.find(name);
  if (!value) throw BadRequest(fields.path(name), fields.path(name) + ": is required");
  return *value;
}

const std::string& require_string(const Fields& fields, std::string_view name) {
  return to_string(require(fields, name), fields.path(name));
}

const Json& require_list(const Fields& fields, std::string_view name) {
  const Json& list = require(fields, name);
  if (!list.is_array())
    throw BadRequest(fields.path(name), fmt::format("{}: expected a list, found {}", fields.path(name), kind_of(list)));
  return list;
}

[[noreturn]] void refuse_block(const Fields& block, std::string_view type) {
  throw BadRequest(block.path("type"),
                   fmt::format("{}: this server does not read blocks of type \"{}\" here", block.path("type"), type));
}

void append_line(std::string& text, std::string_view more, bool first) {
  if (!first) text += '\n';
  text += more;
}

// A text, or a list of text blocks, one below the other.
std::string read_text(const Json& content, const std::string& path) {
  if (content.is_string()) return content.get<std::string>();
  if (!content.is_array())
    throw BadRequest(path, fmt::format("{}: expected a string or a list of blocks, found {}", path, kind_of(content)));
  std::string text;
  for (size_t i = 0; i < content.size(); ++i) {
    const Fields block(content[i], at(path, i));
    const std::string& type = require_string(block, "type");
    if (type != "text") refuse_block(block, type);
    append_line(text, require_string(block, "text"), i == 0);
  }
  return text;
}

std::string read_system(const Json& system) {
  if (!system.is_array()) return without_billing(read_text(system, "system"));
  std::string text;
  bool first = true;
  for (size_t i = 0; i < system.size(); ++i) {
    const std::string block = without_billing(read_text(Json::array({system[i]}), "system"));
    if (block.empty()) continue;
    append_line(text, block, first);
    first = false;
  }
  return text;
}

void read_user(const Json& content, const std::string& path, Json& messages) {
  if (!content.is_array()) {
    messages.push_back({{"role", "user"}, {"content", read_text(content, path)}});
    return;
  }
  std::string text;
  bool has_text = false;
  for (size_t i = 0; i < content.size(); ++i) {
    const Fields block(content[i], at(path, i));
    const std::string& type = require_string(block, "type");
    if (type == "tool_result") {
      const Json* result = block.find("content");
      messages.push_back({{"role", "tool"},
                          {"tool_call_id", require_string(block, "tool_use_id")},
                          {"content", result ? read_text(*result, block.path("content")) : ""}});
    } else if (type == "text") {
      append_line(text, require_string(block, "text"), !has_text);
      has_text = true;
    } else {
      refuse_block(block, type);
    }
  }
  if (has_text || content.empty()) messages.push_back({{"role", "user"}, {"content", std::move(text)}});
}

Json read_tool_use(const Fields& block) {
  const Json* input = block.find("input");
  if (input) Fields(*input, block.path("input"));
  return {{"id", require_string(block, "id")},
          {"type", "function"},
          {"function", {{"name", require_string(block, "name")}, {"arguments", input ? *input : Json::object()}}}};
}

void read_assistant(const Json& content, const std::string& path, Json& messages) {
  Json message = {{"role", "assistant"}, {"content", ""}};
  if (content.is_array()) {
    std::string text, thinking;
    Json calls;
    for (size_t i = 0; i < content.size(); ++i) {
      const Fields block(content[i], at(path, i));
      const std::string& type = require_string(block, "type");
      if (type == "text") {
        text += require_string(block, "text");
      } else if (type == "thinking") {
        thinking += require_string(block, "thinking");
      } else if (type == "tool_use") {
        calls.push_back(read_tool_use(block));
      } else if (type != "redacted_thinking") {  // encrypted by another server: nobody here can read it
        refuse_block(block, type);
      }
    }
    message["content"] = std::move(text);
    if (!thinking.empty()) message["reasoning_content"] = std::move(thinking);
    if (!calls.empty()) message["tool_calls"] = std::move(calls);
  } else {
    message["content"] = read_text(content, path);
  }
  messages.push_back(std::move(message));
}

Json read_messages(const Fields& request) {
  const Json& given = require_list(request, "messages");
  Json messages = Json::array();
  if (const Json* system = request.find("system")) {
    std::string text = read_system(*system);
    if (!text.empty()) messages.push_back({{"role", "system"}, {"content", std::move(text)}});
  }
  if (given.empty()) throw BadRequest("messages", "messages: at least one message is required");
  for (size_t i = 0; i < given.size(); ++i) {
    const Fields message(given[i], at("messages", i));
    const std::string& role = require_string(message, "role");
    const Json& content = require(message, "content");
    if (role == "user") {
      read_user(content, message.path("content"), messages);
    } else if (role == "assistant") {
      read_assistant(content, message.path("content"), messages);
    } else {
      throw BadRequest(message.path("role"),
                       fmt::format("{}: \"{}\" is none of user, assistant", message.path("role"), role));
    }
  }
  return messages;
}

Json read_tools(const Json& given) {
  Json tools = Json::array();
  for (size_t i = 0; i < given.size(); ++i) {
    const Fields tool(given[i], at("tools", i));
    std::string type = "custom", description;
    tool.read("type", type);
    if (type != "custom")
      throw BadRequest(tool.path("type"),
                       fmt::format("{}: this server has no tools of its own such as \"{}\"", tool.path("type"), type));
    Json function = {{"name", require_string(tool, "name")}};
    if (tool.read("description", description)) function["description"] = description;
    const Json& schema = require(tool, "input_schema");
    Fields(schema, tool.path("input_schema"));
    function["parameters"] = schema;
    bool strict = false;
    if (tool.read("strict", strict)) function["strict"] = strict;
    tools.push_back({{"type", "function"}, {"function", std::move(function)}});
  }
  return tools;
}

Json read_tool_choice(const Fields& choice) {
  const std::string& type = require_string(choice, "type");
  if (type == "auto" || type == "none") return type;
  if (type == "any") return "required";
  if (type == "tool") return {{"type", "function"}, {"function", {{"name", require_string(choice, "name")}}}};
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

Json to_chat_request(const Fields& request) {
  Json chat = {{"messages", read_messages(request)}};
  const Json& last = chat["messages"].back();
  if (last["role"] == "assistant" && !last.contains("tool_calls")) chat["continue_final_message"] = true;
  if (request.find("tools")) chat["tools"] = read_tools(require_list(request, "tools"));
  if (const Json* choice = request.find("tool_choice"))
    chat["tool_choice"] = read_tool_choice(Fields(*choice, "tool_choice"));
  bool one_call = false;
  if (const Json* choice = request.find("tool_choice"))
    Fields(*choice, "tool_choice").read("disable_parallel_tool_use", one_call);
  if (one_call) chat["parallel_tool_calls"] = false;
  if (const Json* format = read_output_format(request))
    chat["response_format"] = {{"type", require_string(Fields(*format, "output_format"), "type")},
                               {"schema", require(Fields(*format, "output_format"), "schema")}};
  if (const Json* thinking = request.find("thinking")) {
    const std::string& type = require_string(Fields(*thinking, "thinking"), "type");
    if (type == "enabled" || type == "disabled") chat["reasoning"] = {{"enabled", type == "enabled"}};
  }
  return chat;
}

}  // namespace kt
