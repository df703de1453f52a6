#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "runtime/text/answers/output_piece.h"
#include "runtime/text/answers/reasoning_parser.h"
#include "runtime/text/answers/tool_parser.h"

namespace kt {

struct OutputParserOptions {
  const ReasoningFormat* reasoning = nullptr;  // nullptr: reasoning stays in the content
  const ToolFormat* tools = nullptr;           // nullptr: calls stay in the content
  nlohmann::ordered_json tool_list;            // OpenAI's list; its schemas type the arguments
  bool in_reasoning = false;                   // see starts_in_reasoning; some formats always are
  bool stream_reasoning = true;                // false: reasoning comes in one piece when it has ended
  std::optional<std::string> continued;        // the start of the message that the answer continues
};

// Options with the formats of --tool-call-parser and --reasoning-parser; an empty name is none. Throws
// Error(kExitUsage) that lists the known names.
OutputParserOptions formats_named(std::string_view tool_call_parser, std::string_view reasoning_parser);

// Of options with reasoning: tells it from the rest of the answer.
ReasoningParser make_reasoning_parser(const OutputParserOptions& options);

// Reads one answer while it comes: reasoning, content, tool calls. Text is UTF-8, in whole characters; what else comes
// passes through. The pieces joined do not depend on how the text was cut. One thread at a time.
class OutputParser {
 public:
  explicit OutputParser(const OutputParserOptions& options);

  OutputPieces push(std::string_view text);
  OutputPieces flush();  // at the end of the answer, once

  // After flush: the answer ended inside a tool call, whose arguments are incomplete or which has left no piece.
  bool cut_off() const { return tools_ && tools_->cut_off(); }

 private:
  void take(ReasoningParser::Split split, OutputPieces& out);
  void take(OutputPieces pieces, OutputPieces& out);
  void content(std::string_view text, bool final, OutputPieces& out);

  std::optional<ReasoningParser> reasoning_;
  std::unique_ptr<ToolParser> tools_;
  bool stream_reasoning_;
  std::string held_reasoning_;

  Unread stray_;  // content that may begin the closing tag that a call came before
  bool stray_close_seen_ = false;
};

}  // namespace kt
