#include "runtime/text/templates/deepseek_encoding.h"

#include <fmt/format.h>

#include <vector>

#include "runtime/text/json/json_exact.h"
#include "runtime/text/json/python_json.h"
#include "runtime/text/templates/chat_template.h"

namespace kt {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kBos = "<｜begin▁of▁sentence｜>", kEos = "<｜end▁of▁sentence｜>";
constexpr std::string_view kUser = "<｜User｜>", kAssistant = "<｜Assistant｜>";
constexpr std::string_view kThink = "<think>", kEndThink = "</think>";

const Json& get(const Json& object, const char* name) {
  static const Json absent;
  const auto member = object.find(name);
  return member == object.end() ? absent : *member;
}

const Json& need(const Json& object, const char* name, const std::string& where) {
  if (!object.is_object()) refuse_chat("{}: an object is expected", where);
  if (!object.contains(name)) refuse_chat("{}: \"{}\" is missing", where, name);
  return object[name];
}

std::string json_text(const Json& value) { return python_text(dump_exact(value), PythonForm::kJson); }
std::string repr(const Json& value) { return python_text(dump_exact(value), PythonForm::kRepr); }

// str(value) and bool(value) of Python.
std::string text_of(const Json& value) { return value.is_string() ? value.get<std::string>() : repr(value); }
bool is_true(const Json& value) {
  if (value.is_null()) return false;
  if (value.is_boolean()) return value.get<bool>();
  if (value.is_number()) return value.get<double>() != 0;
  if (value.is_string()) return !value.get_ref<const std::string&>().empty();
  return value.is_binary() || !value.empty();  // binary: an integer beyond 64 bit
}
std::string text_or_empty(const Json& value) { return is_true(value) ? text_of(value) : std::string(); }

bool has_role(const Json& message, std::string_view role) { return get(message, "role") == role; }

int last_user_of(const std::vector<Json>& messages) {
  int last = static_cast<int>(messages.size()) - 1;
  while (last >= 0 && !has_role(messages[last], "user") && !has_role(messages[last], "developer")) --last;
  return last;
}

void append_messages(std::vector<Json>& all, const Json& messages, const char* name) {
  if (!messages.is_array()) refuse_chat("{}: a list is expected", name);
  for (size_t i = 0; i < messages.size(); ++i) {
    if (!messages[i].is_object()) refuse_chat("{}[{}]: an object is expected", name, i);
    all.push_back(messages[i]);
  }
}

// Before the last user message only what users, systems and tools said and what the assistant answered is kept.
std::vector<Json> without_old_thinking(const std::vector<Json>& messages) {
  const int last_user = last_user_of(messages);
  std::vector<Json> kept;
  for (int i = 0; i < static_cast<int>(messages.size()); ++i) {
    const Json& message = messages[i];
    if (i >= last_user || has_role(message, "user") || has_role(message, "system") || has_role(message, "tool")) {
      kept.push_back(message);
    } else if (has_role(message, "assistant")) {
      kept.push_back(message);
      kept.back().erase("reasoning_content");
    }
  }
  return kept;
}

// Prints the turns of one conversation.
class Encoder {
 public:
  Encoder(const std::vector<Json>& messages, const DeepseekOptions& options)
      : messages_(messages), options_(options), last_user_(last_user_of(messages)) {}

  std::string turn(int index) const {
    // Dropped messages leave the list shorter than the conversation.
    const int count = static_cast<int>(messages_.size());
    if (index >= count) refuse_chat("Index {} out of range for messages list of length {}", index, count);
    const Json& message = messages_[index];
    if (has_role(message, "system")) return text_or_empty(get(message, "content")) + extras(message);
    if (has_role(message, "developer")) return developer(message, index);
    if (has_role(message, "user")) return user_turn(text_of(get(message, "content")), index);
    if (has_role(message, "tool")) return tool(message, index);
    if (has_role(message, "assistant")) return assistant(message, index);
    refuse_chat("Unknown role: {}", text_of(get(message, "role")));
  }

 private:
  // The tools and the response format of a system or developer message.
  std::string extras(const Json& message) const {
    std::string out;
    if (const Json& tools = get(message, "tools"); is_true(tools)) out += "\n\n" + tools_block(tools);
    if (const Json& format = get(message, "response_format"); is_true(format))
      out +=
          "\n\n## Response Format:\n\nYou MUST strictly adhere to the following schema to reply:\n" + json_text(format);
    return out;
  }

  std::string tools_block(const Json& tools) const {
    if (!options_.tools)
      refuse_chat("tools: DeepSeek-V3.2-Speciale does not call tools; send the request without them");
    if (!tools.is_array()) refuse_chat("tools: a list is expected");
    std::string schemas;
    for (size_t i = 0; i < tools.size(); ++i) {
      if (i > 0) schemas += '\n';
      schemas += json_text(need(tools[i], "function", fmt::format("tools[{}]", i)));
    }
    return options_.tools->with(schemas);
  }

  std::string_view think_or_not(bool think) const { return options_.thinking && think ? kThink : kEndThink; }

  std::string user_turn(const std::string& text, int index) const {
    return fmt::format("{}{}{}{}", kUser, text, kAssistant, think_or_not(index == last_user_));
  }

  std::string developer(const Json& message, int index) const {
    const Json& content = get(message, "content");
    if (!is_true(content)) refuse_chat("Invalid message for role `developer`: {}", repr(message));
    return user_turn(extras(message) + "\n\n# The user's message is: " + text_of(content), index);
  }

  // One result of the calls of the assistant's turn before; the last one closes the block and opens the next turn.
  std::string tool(const Json& message, int index) const {
    int caller = index - 1;
    while (caller >= 0 && has_role(messages_[caller], "tool")) --caller;
    if (caller < 0 || !has_role(messages_[caller], "assistant"))
      refuse_chat("Invalid messages at {}:\n{}", index, repr(messages_[std::max(caller, 0)]));
    const Json& calls = get(messages_[caller], "tool_calls");
    const int number = index - caller;
    const int count = calls.is_array() ? static_cast<int>(calls.size()) : 0;
    if (count < number) refuse_chat("No tool calls but found tool output");
    std::string out(number == 1 ? "\n\n<function_results>" : "");
    out += fmt::format("\n<result>{}</result>", text_of(get(message, "content")));
    if (number == count) out += fmt::format("\n</function_results>\n\n{}", think_or_not(index >= last_user_));
    return out;
  }

  std::string assistant(const Json& message, int index) const {
    const Json &reasoning = get(message, "reasoning_content"), &calls = get(message, "tool_calls");
    std::string out;
    if (options_.thinking && index > last_user_) {
      if (reasoning.is_null() && !is_true(calls))
        refuse_chat(
            "ThinkingMode: thinking, invalid message without reasoning_content/tool_calls `{}` after last user message",
            repr(message));
      out = fmt::format("{}{}", text_or_empty(reasoning), kEndThink);
    }
    out += text_or_empty(get(message, "content"));
    if (is_true(calls)) out += calls_block(calls);
    return out.append(kEos);
  }

  static std::string calls_block(const Json& calls) {
    if (!calls.is_array()) refuse_chat("tool_calls: a list is expected");
    std::string out = fmt::format("\n\n<{}function_calls>\n", kDsml);
    for (size_t i = 0; i < calls.size(); ++i) {
      const std::string where = fmt::format("tool_calls[{}]", i);
      const Json& function = need(calls[i], "function", where);
      const std::string name = text_of(need(function, "name", where + ".function"));
      out += fmt::format("<{0}invoke name=\"{1}\">\n{2}\n</{0}invoke>\n", kDsml, name,
                         parameters(need(function, "arguments", where + ".function"), where));
    }
    return out + fmt::format("</{}function_calls>", kDsml);
  }

  static std::string parameters(const Json& arguments, const std::string& where) {
    if (!arguments.is_string())
      refuse_chat("{}.function.arguments: a string that holds a JSON object is expected", where);
    std::string out;
    try {
      for (const PythonMember& member : python_members(arguments.get_ref<const std::string&>()))
        out += fmt::format("{0}<{1}parameter name=\"{2}\" string=\"{3}\">{4}</{1}parameter>", out.empty() ? "" : "\n",
                           kDsml, member.name, member.is_string, member.value);
    } catch (const std::runtime_error& error) {
      refuse_chat("{}.function.arguments: {}", where, error.what());
    }
    return out;
  }

  const std::vector<Json>& messages_;
  const DeepseekOptions& options_;
  int last_user_;  // -1: none
};

}  // namespace

std::string encode_deepseek(const Json& messages, const DeepseekOptions& options) {
  std::vector<Json> all;
  append_messages(all, options.context, "context");
  const int first = static_cast<int>(all.size());
  append_messages(all, messages, "messages");
  const int end = static_cast<int>(all.size());
  if (options.thinking && options.drop_thinking) all = without_old_thinking(all);

  std::string prompt(options.add_default_bos_token && first == 0 ? kBos : "");
  const Encoder encoder(all, options);
  for (int index = first; index < end; ++index) prompt += encoder.turn(index);
  return prompt;
}

}  // namespace kt
