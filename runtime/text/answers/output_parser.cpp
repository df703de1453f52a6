#include "runtime/text/answers/output_parser.h"

#include <array>
#include <utility>

#include "runtime/base/error.h"

namespace kt {
namespace {

using Kind = OutputPiece::Kind;

ReasoningParser::Start start_of(const OutputParserOptions& options) {
  using enum ReasoningParser::Start;
  if (options.continued) {  // without a tag, it is text of the answer
    if (options.continued->find(ReasoningParser::kClose) != std::string::npos) return kClosed;
    return options.continued->find(ReasoningParser::kOpen) != std::string::npos ? kOpen : kClosed;
  }
  const bool always = options.reasoning->starts == ReasoningFormat::Starts::kAlways;
  return always || options.in_reasoning ? kOpen : kPerhaps;
}

template <class Format>
const Format* format_named(std::string_view option, std::string_view name, const Format* found,
                           std::span<const Format> formats) {
  if (name.empty() || found) return found;
  std::string names;
  for (const Format& format : formats) names += fmt::format("{}{}", names.empty() ? "" : ", ", format.name);
  fail(kExitUsage, "{}: unknown format '{}'; known are {}", option, name, names);
}

}  // namespace

OutputParserOptions formats_named(std::string_view tool_call_parser, std::string_view reasoning_parser) {
  return {.reasoning = format_named("--reasoning-parser", reasoning_parser, find_reasoning_format(reasoning_parser),
                                    reasoning_formats()),
          .tools =
              format_named("--tool-call-parser", tool_call_parser, find_tool_format(tool_call_parser), tool_formats())};
}

ReasoningParser make_reasoning_parser(const OutputParserOptions& options) {
  return {start_of(options), options.tools ? options.tools->starts : std::vector<ToolFormat::Start>()};
}

OutputParser::OutputParser(const OutputParserOptions& options) : stream_reasoning_(options.stream_reasoning) {
  if (options.tools) tools_ = options.tools->make(options.tool_list);
  if (options.reasoning) reasoning_.emplace(make_reasoning_parser(options));
}

OutputPieces OutputParser::push(std::string_view text) {
  OutputPieces out;
  if (reasoning_)
    take(reasoning_->push(text), out);
  else
    take({.reasoning = "", .rest = std::string(text)}, out);
  return out;
}

OutputPieces OutputParser::flush() {
  OutputPieces out;
  if (reasoning_) take(reasoning_->flush(), out);
  add_piece(out, Kind::kReasoning, std::exchange(held_reasoning_, {}));
  if (tools_) take(tools_->flush(), out);
  content("", true, out);
  return out;
}

void OutputParser::take(ReasoningParser::Split split, OutputPieces& out) {
  held_reasoning_ += split.reasoning;
  if (stream_reasoning_ || !split.rest.empty()) add_piece(out, Kind::kReasoning, std::exchange(held_reasoning_, {}));
  if (tools_)
    take(tools_->push(split.rest), out);
  else
    content(split.rest, false, out);
}

void OutputParser::take(OutputPieces pieces, OutputPieces& out) {
  for (OutputPiece& piece : pieces) {
    if (piece.kind == Kind::kContent)
      content(piece.text, false, out);
    else
      out.push_back(std::move(piece));
  }
}

// Where a call ended the reasoning, one closing tag that comes later is markup.
void OutputParser::content(std::string_view text, bool final, OutputPieces& out) {
  stray_.append(text);
  if (reasoning_ && reasoning_->ended_by_call() && !stray_close_seen_) {
    const std::array close = {ReasoningParser::kClose};
    const MarkerPlace mark = find_marker(stray_.text(), close, final);
    add_piece(out, Kind::kContent, stray_.text().substr(0, mark.at));
    stray_.drop(mark.at);
    if (!mark.found()) return;
    stray_.drop(ReasoningParser::kClose.size());
    stray_close_seen_ = true;
  }
  add_piece(out, Kind::kContent, stray_.text());
  stray_.drop(stray_.text().size());
}

}  // namespace kt
