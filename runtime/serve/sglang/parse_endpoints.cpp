#include "runtime/serve/sglang/parse_endpoints.h"

#include <fmt/format.h>

#include <iterator>
#include <span>

#include "runtime/serve/chat/messages.h"
#include "runtime/serve/fields.h"

namespace kt {
namespace {

constexpr size_t kMaxParserNameBytes = 64;

std::string read_text(const Fields& fields) {
  std::string text;
  if (!fields.read("text", text)) throw BadRequest("text", "text: is required");
  return text;
}

// The parser that the request names, else the server's.
template <class Format>
const Format* read_format(const Fields& fields, const char* field, const Format* served,
                          std::span<const Format> formats) {
  std::string name, known;
  if (!fields.read(field, name, kMaxParserNameBytes)) {
    if (served) return served;
    throw BadRequest(field, fmt::format("{}: is required, as this server was started without one", field));
  }
  for (const Format& format : formats) {
    if (format.name == name) return &format;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", format.name);
  }
  throw BadRequest(field, fmt::format("{}: unknown format \"{}\"; known are {}", field, name, known));
}

OutputPieces parse(const OutputParserOptions& options, std::string_view text) {
  OutputParser parser(options);
  OutputPieces pieces = parser.push(text);
  OutputPieces rest = parser.flush();
  std::move(rest.begin(), rest.end(), std::back_inserter(pieces));
  return pieces;
}

std::string read_call(const Json& body, const ServedModel& model) {
  const Fields fields(body);
  OutputParserOptions options;
  options.tools = read_format(fields, "tool_call_parser", model.tools, tool_formats());
  check_tools(fields);
  if (const Json* tools = fields.find("tools")) options.tool_list = *tools;

  std::string text;
  Json calls = Json::array();
  for (const OutputPiece& piece : parse(options, read_text(fields))) {
    if (piece.kind == OutputPiece::Kind::kCallName) {
      calls.push_back({{"tool_index", piece.call}, {"name", piece.text}, {"parameters", ""}});
    } else if (piece.kind == OutputPiece::Kind::kArguments) {
      calls[static_cast<size_t>(piece.call)]["parameters"].get_ref<std::string&>() += piece.text;
    } else {
      text += piece.text;
    }
  }
  return dump({{"normal_text", std::move(text)}, {"calls", std::move(calls)}});
}

std::string read_reasoning(const Json& body, const ServedModel& model) {
  const Fields fields(body);
  OutputParserOptions options;
  options.reasoning = read_format(fields, "reasoning_parser", model.reasoning, reasoning_formats());
  fields.read("force_reasoning", options.in_reasoning);

  std::string reasoning, text;
  for (const OutputPiece& piece : parse(options, read_text(fields)))
    (piece.kind == OutputPiece::Kind::kReasoning ? reasoning : text) += piece.text;
  return dump({{"reasoning_text", std::move(reasoning)}, {"text", std::move(text)}});
}

}  // namespace

OrError<std::string> parse_function_call(std::string_view body, const ServedModel& model) {
  return or_error([&] { return read_call(parse_body(body), model); });
}

OrError<std::string> separate_reasoning(std::string_view body, const ServedModel& model) {
  return or_error([&] { return read_reasoning(parse_body(body), model); });
}

}  // namespace kt
