#include "runtime/text/templates/deepseek_template.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>

#include "runtime/base/error.h"
#include "runtime/text/json/json_exact.h"
#include "runtime/text/templates/deepseek_encoding.h"
#include "runtime/text/templates/deepseek_tools.h"

namespace kt {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

Json parse(std::string_view text, const char* name, Json absent) {
  if (text.find_first_not_of(" \t\r\n") == text.npos) return absent;
  try {
    Json value = parse_exact(text);
    return value.is_null() ? absent : value;
  } catch (const std::runtime_error& error) {
    refuse_chat("{}: {}", name, error.what());
  }
}

const Json* find(const Json& kwargs, const char* name) {
  const auto option = kwargs.find(name);
  return option == kwargs.end() || option->is_null() ? nullptr : &*option;
}

bool flag(const Json& kwargs, const char* name, bool absent) {
  const Json* option = find(kwargs, name);
  if (!option) return absent;
  if (!option->is_boolean()) refuse_chat("{}: true or false is expected, found {}", name, dump_exact(*option));
  return option->get<bool>();
}

// Empty: the option is absent.
std::string word(const Json& kwargs, const char* name) {
  const Json* option = find(kwargs, name);
  if (!option) return "";
  if (!option->is_string()) refuse_chat("{}: a string is expected, found {}", name, dump_exact(*option));
  return option->get<std::string>();
}

// The text parts of a list, joined by spaces; other parts are left out.
Json content_text(const Json& content) {
  if (content.is_null()) return "";
  if (!content.is_array()) return content;
  std::string text;
  bool first = true;
  for (const Json& part : content) {
    if (!part.is_object() || part.value("type", Json()) != "text") continue;
    const Json piece = part.value("text", Json(""));
    if (!std::exchange(first, false)) text += ' ';
    if (piece.is_string()) text += piece.get_ref<const std::string&>();
  }
  return text;
}

Json prepared_message(const Json& given) {
  Json message = Json::object();
  for (const auto& [name, member] : given.items())
    if (!member.is_null()) message[name] = member;
  message["content"] = content_text(given.value("content", Json()));
  return message;
}

Json prepared_messages(const Json& given, const Json& tools) {
  if (!given.is_array()) refuse_chat("messages: a list is expected");
  Json messages = Json::array();
  if (given.empty() || !given[0].is_object() || given[0].value("role", Json()) != "system")
    messages.push_back({{"role", "system"}, {"content", ""}});
  for (size_t i = 0; i < given.size(); ++i) {
    if (!given[i].is_object()) refuse_chat("messages[{}]: an object is expected", i);
    messages.push_back(prepared_message(given[i]));
  }
  if (!tools.empty()) messages[0]["tools"] = tools;
  return messages;
}

class DeepseekTemplate : public ChatTemplate {
 public:
  // own: the checkpoint's text.
  DeepseekTemplate(std::optional<ToolsText> own, bool has_tools) : own_(std::move(own)), has_tools_(has_tools) {}

  // The first message is the system's and a user's the first after it: only a user's turn opens the assistant's.
  TemplateTraits traits() const override {
    return {.system = TemplateTraits::System::first,
            .needs_user = true,
            .needs_reasoning = true,
            .text_parts = false,
            .argument_text = true};
  }

  std::string render(std::string_view messages, std::string_view tools, std::string_view kwargs) const override {
    const Json given = parse(messages, "messages", Json::array());
    const Json tool_list = parse(tools, "tools", Json::array());
    const Json options = parse(kwargs, "kwargs", Json::object());
    if (!options.is_object()) refuse_chat("kwargs: an object is expected");

    const std::string mode = word(options, "thinking_mode");
    DeepseekOptions encoding{.thinking = mode == "thinking",
                             .drop_thinking = flag(options, "drop_thinking", true),
                             .add_default_bos_token = flag(options, "add_default_bos_token", true),
                             .tools = tools_text_of(options)};
    if (const Json* context = find(options, "context")) encoding.context = *context;
    if (mode.empty()) {
      encoding.thinking = flag(options, "thinking", flag(options, "enable_thinking", false));
      return encode_deepseek(prepared_messages(given, tool_list), encoding);
    }
    if (mode != "chat" && mode != "thinking") refuse_chat("Invalid thinking_mode `{}`", mode);
    if (!tool_list.empty())
      refuse_chat("tools: with thinking_mode, tools are a member of a system or developer message");
    return encode_deepseek(given, encoding);
  }

 private:
  // Null: the model has no tools.
  const ToolsText* tools_text_of(const Json& options) const {
    if (!has_tools_) return nullptr;
    const std::string header = word(options, "tools_header");
    if (header == "compact") return &compact_;
    if (header == "spaced") return &spaced_;
    if (!header.empty()) refuse_chat("tools_header: \"compact\" or \"spaced\" is expected, found \"{}\"", header);
    return own_ ? &*own_ : &compact_;
  }

  std::optional<ToolsText> own_;
  ToolsText compact_ = tools_text(ToolsHeader::kCompact), spaced_ = tools_text(ToolsHeader::kSpaced);
  bool has_tools_;
};

// DeepSeek-V3.2-Speciale, or models--deepseek-ai--DeepSeek-V3.2-Speciale/snapshots/<commit>.
bool is_speciale(const fs::path& model) {
  const auto names_it = [](std::string name) {
    std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
    return name.find("speciale") != name.npos;
  };
  std::error_code error;
  fs::path folder = fs::weakly_canonical(model, error);
  if (error) folder = model;
  for (const fs::path& path : {fs::path(model / "").parent_path(), folder}) {
    if (names_it(path.filename().string())) return true;
    const fs::path snapshots = path.parent_path();
    if (snapshots.filename() == "snapshots" && names_it(snapshots.parent_path().filename().string())) return true;
  }
  return false;
}

}  // namespace

bool uses_deepseek_template(const fs::path& model) {
  std::ifstream in(model / "config.json", std::ios::binary);
  const Json config = Json::parse(in, nullptr, false);
  if (!config.is_object()) return false;
  if (config.value("model_type", Json()) == "deepseek_v32") return true;
  const Json architectures = config.value("architectures", Json());
  const bool known = std::any_of(architectures.begin(), architectures.end(), [](const Json& name) {
    return name == "DeepseekV32ForCausalLM" || name == "DeepseekV3ForCausalLM";
  });
  return known && fs::is_directory(model / "encoding");
}

std::unique_ptr<ChatTemplate> load_deepseek_template(const fs::path& model, std::string_view name) {
  const bool speciale = name == kSpecialeTemplate || (!model.empty() && is_speciale(model));
  return std::make_unique<DeepseekTemplate>(read_tools_text(model), !speciale);
}

}  // namespace kt
