#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/text/answers/output_piece.h"
#include "runtime/text/answers/tool_scan.h"

namespace kt {

// Writes the pieces of an answer with tool calls. White space goes out together with the text that follows it, so that
// what separates calls from each other is no content; without any call the content is exactly what came. Content that
// comes amid a call goes out behind it, so that the pieces of a call stand together.
class CallWriter {
 public:
  void content(std::string_view text);
  void begin_call(std::string_view name);
  void arguments(std::string_view text);
  void end_call();
  void inside_markup();  // the white space since the end of the call belongs to its markup
  void finish();
  bool in_call() const { return open_; }
  OutputPieces take() { return std::exchange(pieces_, {}); }

 private:
  OutputPieces pieces_;
  std::string white_space_;   // not written yet
  size_t before_markup_ = 0;  // how much of it came before the end of the latest call
  std::string amid_call_;     // content, not written yet
  int calls_ = 0;
  bool open_ = false;
};

// Splits an answer into content and tool calls while it comes. The pieces joined do not depend on how the text was cut.
// What cannot be a call is content. A call is named as soon as its head is complete; arguments that the answer breaks
// off stay incomplete JSON, so that no client acts on half of them. One object per answer, one thread at a time.
class ToolParser {
 public:
  virtual ~ToolParser() = default;

  OutputPieces push(std::string_view text);
  OutputPieces flush();  // at the end of the answer, once

  // After flush: the answer ended inside a call. Its arguments are incomplete; a call whose head was not complete has
  // left no piece.
  bool cut_off() const { return cut_off_; }

 protected:
  // Reads some of the unread text; false when it takes more text to go on. When `final_`, no more text comes, and text
  // that waited is decided as it stands.
  virtual bool step() = 0;

  void literal(size_t bytes);  // reads text that turned out to be content
  void drop_cut_off_head();    // at the end: the rest began a call

  Unread unread_;
  CallWriter out_;
  bool final_ = false;
  bool cut_off_ = false;
};

// How a model writes calls.
struct ToolFormat {
  // What begins a call even in the midst of reasoning, which it ends: `first`, after white space `second` if not empty.
  struct Start {
    std::string_view first, second;
  };

  std::string_view name;                                                     // of --tool-call-parser
  std::unique_ptr<ToolParser> (*make)(const nlohmann::ordered_json& tools);  // tools: OpenAI's list, copied
  std::vector<Start> starts;
  bool ids_name_the_function = false;  // tool call ids as Kimi's models learnt them
};

std::span<const ToolFormat> tool_formats();
const ToolFormat* find_tool_format(std::string_view name);  // nullptr: unknown

// A tool call's id: "functions.NAME:K" where the format has it so, K counting all calls of the conversation from 0;
// else "call_" and 24 of `hex_digits`, which the caller draws at random.
std::string tool_call_id(const ToolFormat& format, std::string_view name, int k, std::string_view hex_digits);

// The makers of the formats, each in its file.
std::unique_ptr<ToolParser> make_qwen3_coder_parser(const nlohmann::ordered_json& tools);
std::unique_ptr<ToolParser> make_deepseek_v32_parser(const nlohmann::ordered_json& tools);
std::unique_ptr<ToolParser> make_kimi_k2_parser(const nlohmann::ordered_json& tools);
std::unique_ptr<ToolParser> make_deepseek_v31_parser(const nlohmann::ordered_json& tools);
std::unique_ptr<ToolParser> make_deepseek_v3_parser(const nlohmann::ordered_json& tools);
std::unique_ptr<ToolParser> make_hermes_parser(const nlohmann::ordered_json& tools);
std::unique_ptr<ToolParser> make_json_array_parser(const nlohmann::ordered_json& tools);

}  // namespace kt
