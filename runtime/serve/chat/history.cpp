#include "runtime/serve/chat/history.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "runtime/serve/chat/call_history.h"
#include "runtime/serve/chat/content_blocks.h"
#include "runtime/serve/errors.h"
#include "runtime/serve/fields.h"
#include "runtime/text/answers/tool_scan.h"
#include "runtime/text/json/json_exact.h"

namespace kt {
namespace {

bool is_role(const Json& message, std::string_view role) { return message["role"] == role; }

// OpenAI's {"function": {"name", "arguments"}}, its custom tools' {"custom": {"name", "input"}}, or the bare members.
Json read_call(const Json& given, const std::string& path) {
  const Fields call(given, path);
  const char* inside = call.find("custom") ? "custom" : "function";
  const Json* function = call.find(inside);
  const Fields members(function ? *function : given, function ? call.path(inside) : path);
  const Json* arguments = members.find("arguments");
  if (!arguments) arguments = members.find("input");
  const Json* name = members.find("name");

  Json out = given;
  for (const char* moved : {"custom", "name", "arguments", "input"}) out.erase(moved);
  out["type"] = "function";
  out["function"] = function ? *function : Json::object();
  out["function"].erase("input");
  out["function"]["name"] = name && name->is_string() ? *name : Json("unknown");
  out["function"]["arguments"] = arguments_object(arguments ? *arguments : Json());
  return out;
}

// All calls of an assistant's message, wherever it has them.
Json read_calls(const Fields& message, const Json& of_blocks) {
  Json calls = Json::array();
  const std::string path = message.path("tool_calls");
  if (const Json* given = message.find("tool_calls")) {
    if (!given->is_array()) throw BadRequest(path, fmt::format("{}: expected a list, found {}", path, kind_of(*given)));
    for (size_t i = 0; i < given->size(); ++i) calls.push_back(read_call((*given)[i], element_of(path, i)));
  }
  if (const Json* given = message.find("function_call"))
    calls.push_back(read_call(*given, message.path("function_call")));
  for (const Json& call : of_blocks) calls.push_back(read_call(call, message.path("content")));
  return calls;
}

void set_reasoning(Json& message, const std::string& of_blocks) {
  std::string reasoning = of_blocks;
  for (const char* name : {"reasoning_content", "reasoning", "thinking"}) {
    const auto given = message.find(name);
    if (given == message.end() || !given->is_string()) continue;
    reasoning = given->get<std::string>() + reasoning;
    break;
  }
  const auto own = message.find("reasoning_content");
  const bool given = own != message.end() && own->is_string();
  if (given || !reasoning.empty())
    message["reasoning_content"] = std::move(reasoning);
  else
    message.erase("reasoning_content");
}

bool is_empty(const Json& message) {
  const auto reasoning = message.find("reasoning_content");
  const bool reasons = reasoning != message.end() && !reasoning->get_ref<const std::string&>().empty();
  return !reasons && !has_calls(message) && text_of(message["content"], "").empty();
}

std::vector<std::string> without_billing(std::vector<std::string> texts) {
  std::vector<std::string> kept;
  for (std::string& text : texts) {
    const bool was_empty = text.empty();
    std::string rest = kt::without_billing(std::move(text));
    if (was_empty || !rest.empty()) kept.push_back(std::move(rest));
  }
  return kept;
}

Json content_for(std::vector<std::string> texts, Dialect dialect) {
  Json content = content_of(std::move(texts));
  return dialect == Dialect::anthropic ? Json(text_of(content, "\n")) : content;
}

// One message of a client: as many of ours as its blocks make.
void add_message(const Json& given, const std::string& path, Dialect dialect, Json& messages) {
  const Fields fields(given, path);
  const std::string role = read_role(fields);
  const Json* content = fields.find("content");
  if (!content && role == "user")
    throw BadRequest(fields.path("content"), fields.path("content") + ": a user message needs content");
  ContentBlocks blocks = read_content(content ? *content : Json(), fields.path("content"));
  for (Json& result : blocks.results) {
    result["content"] = dialect == Dialect::anthropic ? Json(text_of(result["content"], "\n")) : result["content"];
    messages.push_back(std::move(result));
  }

  Json message = given;
  message["role"] = role;
  message.erase("tool_calls");
  if (role == "system") {
    blocks.texts = without_billing(std::move(blocks.texts));
  } else if (role == "assistant") {
    if (blocks.texts.empty() && fields.find("refusal") && fields.find("refusal")->is_string())
      blocks.texts.push_back(fields.find("refusal")->get<std::string>());
    set_reasoning(message, blocks.thinking);
    message.erase("function_call");
    if (Json calls = read_calls(fields, blocks.calls); !calls.empty()) message["tool_calls"] = std::move(calls);
  }
  const bool only_results = blocks.texts.empty() && !blocks.results.empty() && !has_calls(message);
  // An assistant's blocks are one text in pieces, not paragraphs.
  message["content"] = role == "assistant" && dialect == Dialect::anthropic
                           ? Json(text_of(content_of(std::move(blocks.texts)), ""))
                           : content_for(std::move(blocks.texts), dialect);
  if (only_results || (role == "assistant" && is_empty(message))) return;
  messages.push_back(std::move(message));
}

// All system messages as one, in front.
Json with_system_in_front(Json messages) {
  std::string text;
  Json others = Json::array();
  bool any = false;
  for (Json& message : messages) {
    if (!is_role(message, "system")) {
      others.push_back(std::move(message));
      continue;
    }
    any = true;
    const std::string more = text_of(message["content"], " ");
    if (!text.empty() && !more.empty()) text += "\n\n";
    text += more;
  }
  if (any) others.insert(others.begin(), Json{{"role", "system"}, {"content", std::move(text)}});
  return others;
}

// Results of tools that a client wrapped itself are no user's words.
bool is_query(const Json& message) {
  if (!is_role(message, "user")) return false;
  const std::string text = text_of(message["content"], " ");
  const size_t begin = text.find_first_not_of(kWhiteSpace), end = text.find_last_not_of(kWhiteSpace) + 1;
  if (begin == text.npos) return true;
  const std::string_view inner = std::string_view(text).substr(begin, end - begin);
  return !(inner.starts_with("<tool_response>") && inner.ends_with("</tool_response>"));
}

void add_query(Json& messages) {
  if (std::any_of(messages.begin(), messages.end(), is_query)) return;
  const auto first =
      std::find_if(messages.begin(), messages.end(), [](const Json& m) { return !is_role(m, "system"); });
  messages.insert(first, Json{{"role", "user"}, {"content", "Continue."}});
}

// For templates without a system message: its text opens the first user's.
void move_system_to_user(Json& messages) {
  if (messages.empty() || !is_role(messages.front(), "system")) return;
  const std::string text = messages.front()["content"].get<std::string>();
  messages.erase(messages.begin());
  const auto user = std::find_if(messages.begin(), messages.end(), [](const Json& m) { return is_role(m, "user"); });
  if (user == messages.end()) {
    messages.insert(messages.begin(), Json{{"role", "user"}, {"content", text}});
  } else if (!text.empty()) {
    (*user)["content"] = text + "\n\n" + text_of((*user)["content"], " ");
  }
}

}  // namespace

std::string read_role(const Fields& message) {
  std::string role;
  if (!message.read("role", role)) throw BadRequest(message.path("role"), message.path("role") + ": is required");
  std::transform(role.begin(), role.end(), role.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? char(c - 'A' + 'a') : c; });
  if (role == "developer") return "system";
  if (role == "function") return "tool";
  return role == "system" || role == "assistant" || role == "tool" ? role : "user";
}

Json arguments_object(const Json& given) {
  if (given.is_object()) return given;
  if (given.is_null()) return Json::object();
  if (!given.is_string()) return {{"raw_arguments", dump_exact(given)}};
  const std::string& text = given.get_ref<const std::string&>();
  if (text.find_first_not_of(kWhiteSpace) == text.npos) return Json::object();
  try {
    Json value = parse_exact(text);
    if (value.is_string()) value = parse_exact(value.get<std::string>());  // some encode twice
    if (value.is_null()) return Json::object();
    if (value.is_object()) return value;
  } catch (const std::exception&) {
    // It stays what it is: the model sees what it wrote.
  }
  return {{"raw_arguments", text}};
}

std::string without_billing(std::string text) {
  if (!text.starts_with("x-anthropic-billing-header:")) return text;
  const size_t end = text.find('\n');
  return end == text.npos ? "" : text.substr(end + 1);
}

std::string read_system(const Json& system) {
  return text_of(content_of(without_billing(read_content(system, "system").texts)), "\n");
}

Json read_history(const Json& list, Dialect dialect) {
  const std::string path = "messages";
  if (!list.is_array()) throw BadRequest(path, fmt::format("{}: expected a list, found {}", path, kind_of(list)));
  if (list.empty()) throw BadRequest(path, "messages cannot be empty");
  if (list.size() > kMaxMessages)
    throw BadRequest(path, fmt::format("{}: at most {} messages, found {}", path, kMaxMessages, list.size()));
  Json messages = Json::array();
  for (size_t i = 0; i < list.size(); ++i) add_message(list[i], element_of(path, i), dialect, messages);
  return order_results(std::move(messages));
}

Json fit_history(Json messages, const TemplateTraits& traits) {
  using System = TemplateTraits::System;
  if (traits.system != System::anywhere) messages = with_system_in_front(std::move(messages));
  if (traits.needs_user || messages.empty()) add_query(messages);
  if (traits.system == System::none) move_system_to_user(messages);
  for (Json& message : messages) {
    if (!traits.text_parts) message["content"] = text_of(message["content"], " ");
    if (!is_role(message, "assistant")) continue;
    if (traits.needs_reasoning && !message.contains("reasoning_content")) message["reasoning_content"] = "";
    if (!traits.argument_text || !has_calls(message)) continue;
    for (Json& call : message["tool_calls"]) call["function"]["arguments"] = dump_exact(call["function"]["arguments"]);
  }
  return messages;
}

}  // namespace kt
