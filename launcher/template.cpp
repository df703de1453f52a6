#include <memory>
#include <stdexcept>
#include <string>

#include "launcher/commands.h"
#include "launcher/replay.h"
#include "runtime/base/error.h"
#include "runtime/config/hub_cache.h"
#include "runtime/text/json/json_exact.h"
#include "runtime/text/templates/chat_template.h"

namespace kt {
namespace {

namespace po = boost::program_options;
using Json = nlohmann::ordered_json;

constexpr std::string_view kSummary =
    "Usage: ktmpi template --chat-template FILE | --model DIR < records > answers\n\n"
    "Renders conversations into prompts, one JSON record a line:\n"
    "  {\"messages\", \"tools\", \"kwargs\"} ->  {\"text\"}\n"
    "  {\"template\", \"context\"}         ->  {\"text\"}   with the record's own template\n"
    "A record that is refused is answered with {\"error\"}. Other members of a record are not looked at.";

std::string text_of(const Json& record, const char* member) {
  return record.contains(member) ? dump_exact(record[member]) : std::string();
}

Json answer(const ChatTemplate* chat, std::string_view line) {
  const Json record = parse_exact(line);  // numbers reach the template as they are written
  if (!record.is_object()) throw std::runtime_error("a JSON object is expected");
  Json out;
  if (record.contains("template")) {
    if (!record["template"].is_string()) throw std::runtime_error("template: a string is expected");
    out["text"] = render_template(record["template"].get_ref<const std::string&>(), text_of(record, "context"));
  } else if (!record.contains("messages")) {
    throw std::runtime_error("a record needs messages or template");
  } else if (!chat) {
    throw std::runtime_error("messages need a template: --chat-template FILE or --model DIR");
  } else {
    out["text"] = chat->render(text_of(record, "messages"), text_of(record, "tools"), text_of(record, "kwargs"));
  }
  return out;
}

}  // namespace

int template_command(int argc, char** argv) {
  std::string file_or_name, model;
  po::options_description options;
  options.add_options()("chat-template", po::value(&file_or_name)->value_name("FILE"), "the template");
  options.add_options()("model", po::value(&model)->value_name("DIR"),
                        "model folder with the template (without --chat-template) and the special tokens");
  if (!read_options(argc, argv, kSummary, options)) return kExitOk;

  std::unique_ptr<ChatTemplate> chat;
  if (!file_or_name.empty() || !model.empty()) chat = load_chat_template(model_folder("model", model), file_or_name);
  return answer_lines([&](std::string_view line) { return answer(chat.get(), line); });
}

}  // namespace kt
