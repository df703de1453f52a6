#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "launcher/commands.h"
#include "launcher/replay.h"
#include "runtime/base/error.h"
#include "runtime/text/answers/output_parser.h"
#include "runtime/text/json/json_exact.h"

namespace kt {
namespace {

namespace po = boost::program_options;
using Json = nlohmann::ordered_json;

constexpr std::string_view kSummary =
    "Usage: ktmpi parse [--tool-call-parser NAME] [--reasoning-parser NAME] < records > answers\n\n"
    "Splits answers of models into reasoning, text and tool calls, one JSON record a line:\n"
    "  {\"tools\", \"input_chunks\", \"force_reasoning\", \"stream_reasoning\", \"previous_content\"}\n"
    "  ->  {\"reasoning_text\", \"normal_text\", \"calls\": [{\"name\", \"arguments\"}]}\n"
    "`input_chunks` is the answer in pieces, as it would be generated; `tools` is OpenAI's list; `force_reasoning`: "
    "the\n"
    "answer starts inside reasoning; `previous_content`: the start of the message that the answer continues.\n"
    "A record that is refused is answered with {\"error\"}. Other members of a record are not looked at.";

const Json* member(const Json& record, const char* name) {
  const auto found = record.find(name);
  return found == record.end() || found->is_null() ? nullptr : &*found;
}

bool flag(const Json& record, const char* name, bool absent) {
  const Json* value = member(record, name);
  if (!value) return absent;
  if (!value->is_boolean()) throw std::runtime_error(fmt::format("{}: true or false is expected", name));
  return value->get<bool>();
}

std::vector<std::string> chunks_of(const Json& record) {
  const Json* chunks = member(record, "input_chunks");
  if (!chunks || !chunks->is_array()) throw std::runtime_error("input_chunks: a list of strings is expected");
  std::vector<std::string> texts;
  for (const Json& chunk : *chunks) {
    if (!chunk.is_string()) throw std::runtime_error(fmt::format("input_chunks[{}]: not a string", texts.size()));
    texts.push_back(chunk.get<std::string>());
  }
  return texts;
}

OutputParserOptions options_of(const Json& record, OutputParserOptions options) {
  if (const Json* tools = member(record, "tools")) {
    if (!tools->is_array()) throw std::runtime_error("tools: a list is expected");
    options.tool_list = *tools;
  }
  if (const Json* previous = member(record, "previous_content")) {
    if (!previous->is_string()) throw std::runtime_error("previous_content: a string is expected");
    options.continued = previous->get<std::string>();
  }
  options.in_reasoning = flag(record, "force_reasoning", false);
  options.stream_reasoning = flag(record, "stream_reasoning", true);
  return options;
}

void append(const OutputPieces& pieces, Json& out) {
  for (const OutputPiece& piece : pieces) {
    switch (piece.kind) {
      case OutputPiece::Kind::kReasoning: out["reasoning_text"].get_ref<std::string&>() += piece.text; break;
      case OutputPiece::Kind::kContent: out["normal_text"].get_ref<std::string&>() += piece.text; break;
      case OutputPiece::Kind::kCallName: out["calls"].push_back({{"name", piece.text}, {"arguments", ""}}); break;
      case OutputPiece::Kind::kArguments:
        out["calls"][static_cast<size_t>(piece.call)]["arguments"].get_ref<std::string&>() += piece.text;
    }
  }
}

Json answer(const OutputParserOptions& formats, std::string_view line) {
  const Json record = parse_exact(line, 1000);
  if (!record.is_object()) throw std::runtime_error("a JSON object is expected");
  OutputParser parser(options_of(record, formats));
  Json out = {{"reasoning_text", ""}, {"normal_text", ""}, {"calls", Json::array()}};
  for (const std::string& chunk : chunks_of(record)) append(parser.push(chunk), out);
  append(parser.flush(), out);
  return out;
}

template <class Format>
std::string names(std::span<const Format> formats) {
  std::string list;
  for (const Format& format : formats) list += fmt::format("{}{}", list.empty() ? "" : ", ", format.name);
  return list;
}

}  // namespace

int parse_command(int argc, char** argv) {
  std::string tools, reasoning;
  po::options_description options;
  options.add_options()("tool-call-parser", po::value(&tools)->value_name("NAME"),
                        ("how the model writes tool calls: " + names(tool_formats())).c_str());
  options.add_options()("reasoning-parser", po::value(&reasoning)->value_name("NAME"),
                        ("how the model marks its reasoning: " + names(reasoning_formats())).c_str());
  if (!read_options(argc, argv, kSummary, options)) return kExitOk;

  const OutputParserOptions formats = formats_named(tools, reasoning);
  return answer_lines([&](std::string_view line) { return answer(formats, line); });
}

}  // namespace kt
