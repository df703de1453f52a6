#include "runtime/serve/openai/responses_input.h"

#include <fmt/format.h>

#include <algorithm>

#include "runtime/serve/chat/content_blocks.h"
#include "runtime/serve/errors.h"
#include "runtime/serve/openai/responses_tools.h"
#include "runtime/serve/service.h"
#include "runtime/text/json/json_exact.h"

namespace kt {
namespace {

constexpr std::string_view kSeal = "ktmpi:";

// Of tools that run elsewhere, or that only their own server can read.
constexpr std::string_view kSilent[] = {
    "web_search_call",
    "file_search_call",
    "image_generation_call",
    "code_interpreter_call",
    "computer_call",
    "computer_call_output",
    "local_shell_call",
    "local_shell_call_output",
    "shell_call",
    "shell_call_output",
    "apply_patch_call",
    "apply_patch_call_output",
    "mcp_call",
    "mcp_list_tools",
    "mcp_approval_request",
    "mcp_approval_response",
    "program",
    "program_output",
    "compaction",
    "compaction_summary",
    "compaction_trigger",
    "configuration_update",
    "additional_tools",
};

std::string type_of(const Fields& item) {
  std::string type;
  if (item.read("type", type)) return type;
  if (item.find("role")) return "message";
  if (item.find("id")) return "item_reference";
  throw BadRequest(item.path("type"), item.path("type") + ": is required");
}

std::string_view id_prefix(const std::string& type) {
  if (type == "message") return "msg";
  if (type == "reasoning") return "rs";
  return type.ends_with("_output") ? "out" : "call";
}

// A message's text as the part that it stands for.
void spell_out(Json& message) {
  if (!message.contains("content") || !message["content"].is_string()) return;
  const bool answer = message.value("role", Json("")) == "assistant";
  Json part = {{"type", answer ? "output_text" : "input_text"}, {"text", message["content"]}};
  if (answer) part["annotations"] = Json::array();
  message["content"] = Json::array({std::move(part)});
}

// A text, or a list of parts, as a chat has it.
Json read_parts(const Json& content, const std::string& path) { return content_of(read_content(content, path).texts); }

std::string joined(const Json& content, const std::string& path) { return text_of(read_parts(content, path), ""); }

// The reasoning itself, what it was sealed as, or else its summary.
std::string reasoning_text(const Fields& item) {
  std::string sealed, text;
  if (const Json* content = item.find("content")) text = joined(*content, item.path("content"));
  if (!text.empty()) return text;
  if (item.read("encrypted_content", sealed) && sealed.starts_with(kSeal)) return sealed.substr(kSeal.size());
  const Json* summary = item.find("summary");
  return summary ? joined(*summary, item.path("summary")) : "";
}

class MessageWriter {
 public:
  void add(const Json& json, const std::string& path) {
    const Fields item(json, path);
    const std::string type = type_of(item);
    if (type == "message") {
      add_message(item);
    } else if (type == "reasoning") {
      const std::string text = reasoning_text(item);
      if (!text.empty()) append("reasoning_content", text);
    } else if (type == "function_call") {
      const Json* arguments = item.find("arguments");
      add_call(item, item.require_string("name"), arguments ? *arguments : Json(""));
    } else if (type == "custom_tool_call") {
      add_call(item, item.require_string("name"), custom_arguments(item.require_string("input")));
    } else if (type == "tool_search_call") {
      const Json* arguments = item.find("arguments");
      add_call(item, "tool_search", arguments ? *arguments : Json(""));
    } else if (type == "function_call_output" || type == "custom_tool_call_output") {
      const Json* output = item.find("output");
      if (!output) throw BadRequest(item.path("output"), item.path("output") + ": is required");
      add_result(item, output->is_object() ? Json(dump_exact(*output)) : read_parts(*output, item.path("output")));
    } else if (type == "tool_search_output") {
      const Json* tools = item.find("tools");
      add_result(item, dump(tools ? *tools : Json::array()));
    } else if (std::find(std::begin(kSilent), std::end(kSilent), type) == std::end(kSilent)) {
      throw BadRequest(item.path("type"),
                       fmt::format("{}: this server reads no items of type \"{}\"", item.path("type"), type));
    }
  }

  Json messages = Json::array();

 private:
  void add_message(const Fields& item) {
    const std::string role = item.require_string("role");
    const Json* content = item.find("content");
    if (role == "assistant") {
      append("content", content ? joined(*content, item.path("content")) : "");
    } else if (content) {
      messages.push_back({{"role", role}, {"content", read_parts(*content, item.path("content"))}});
    } else {
      throw BadRequest(item.path("content"), item.path("content") + ": is required");
    }
  }

  void add_call(const Fields& item, const std::string& name, Json arguments) {
    std::string name_space, id;
    item.read("namespace", name_space);
    Json call = {{"type", "function"},
                 {"function", {{"name", model_name(name, name_space)}, {"arguments", std::move(arguments)}}}};
    if (item.read("call_id", id)) call["id"] = id;
    assistant()["tool_calls"].push_back(std::move(call));
  }

  void add_result(const Fields& item, Json content) {
    Json message = {{"role", "tool"}, {"content", std::move(content)}};
    std::string id;
    if (item.read("call_id", id)) message["tool_call_id"] = id;
    messages.push_back(std::move(message));
  }

  void append(const char* member, const std::string& text) {
    Json& message = assistant();
    message[member] = message.value(member, "") + text;
  }

  // What the assistant says in one go is one message.
  Json& assistant() {
    if (messages.empty() || messages.back()["role"] != "assistant")
      messages.push_back({{"role", "assistant"}, {"content", ""}});
    return messages.back();
  }
};

}  // namespace

Json read_input_items(const Fields& request, ResponseStore& store, const std::string& owner) {
  const std::string path = request.path("input");
  const Json* input = request.find("input");
  if (!input) throw BadRequest(path, path + ": is required");
  Json items = input->is_string() ? Json::array({{{"role", "user"}, {"content", *input}}}) : *input;
  if (!items.is_array())
    throw BadRequest(path, fmt::format("{}: expected a string or a list of items, found {}", path, kind_of(items)));
  for (size_t i = 0; i < items.size(); ++i) {
    Json& item = items[i];
    const Fields fields(item, element_of(path, i));
    const std::string type = type_of(fields);
    std::string id;
    fields.read("id", id);
    if (type == "item_reference") {
      std::optional<Json> found = store.item(id, owner);
      if (!found) {
        BadRequest unknown(fields.path("id"), fmt::format("Item with id '{}' not found.", id));
        unknown.error.status = 404;
        throw unknown;
      }
      item = std::move(*found);
      continue;
    }
    item["type"] = type;
    if (id.empty()) item["id"] = fmt::format("{}_{}", id_prefix(type), random_id());
    if (type == "message") spell_out(item);
  }
  return items;
}

Json to_messages(const Json& items, const std::string& path) {
  if (!items.is_array())
    throw BadRequest(path, fmt::format("{}: expected a string or a list of items, found {}", path, kind_of(items)));
  MessageWriter writer;
  for (size_t i = 0; i < items.size(); ++i) writer.add(items[i], element_of(path, i));
  return std::move(writer.messages);
}

std::string seal_reasoning(const std::string& text) { return std::string(kSeal) + text; }

}  // namespace kt
