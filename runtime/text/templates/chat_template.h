#pragma once

#include <fmt/core.h>

#include <filesystem>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>

namespace kt {

// The template refused the conversation (raise_exception, a wrong type, ...): the client's mistake, answered 400.
struct TemplateError : std::runtime_error {
  using std::runtime_error::runtime_error;
};
template <typename... Args>
[[noreturn]] void refuse_chat(fmt::format_string<Args...> text, Args&&... args) {
  throw TemplateError(fmt::format(text, std::forward<Args>(args)...));
}

// What a template takes that not all of them take: a history is fitted to it before it is rendered.
struct TemplateTraits {
  enum class System : uint8_t { anywhere, first, none } system = System::anywhere;  // where a system message may stand
  bool needs_user = false;       // refuses a conversation in which no user said anything
  bool needs_reasoning = false;  // an assistant's message needs reasoning_content, be it empty
  bool text_parts = false;       // content may be a list of text parts, which the template joins its own way
  bool argument_text = false;    // the arguments of tool calls as OpenAI's JSON strings; otherwise as objects
};

// Renders chats into prompts with the checkpoint's own template. Any thread may call render; calls take turns.
class ChatTemplate {
 public:
  virtual ~ChatTemplate() = default;
  // messages and tools are JSON texts ("" or "null": none), kwargs a JSON object whose members become template
  // variables next to messages, tools, documents and the special tokens; add_generation_prompt is one of them.
  // Numbers reach the template as written (integers of any size). Throws TemplateError.
  virtual std::string render(std::string_view messages, std::string_view tools, std::string_view kwargs) const = 0;
  virtual TemplateTraits traits() const { return {}; }
};

// The template of a model folder: chat_template.jinja, or chat_template in tokenizer_config.json, or what DeepSeek V3.2
// has instead; `file_or_name` (--chat-template) overrides it: a file, or a name in deepseek_template.h. Throws
// Error(kExitModel) when there is none, Error(kExitUsage) for a bad override.
std::unique_ptr<ChatTemplate> load_chat_template(const std::filesystem::path& model, std::string_view file_or_name);

// One template text against one context (a JSON object): for `ktmpi template` records with their own template.
std::string render_template(std::string_view template_text, std::string_view context);

}  // namespace kt
