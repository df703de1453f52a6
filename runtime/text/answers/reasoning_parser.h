#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/text/answers/tool_parser.h"

namespace kt {

// How a model marks its reasoning. All families use <think> and </think>; they differ in whether the prompt already
// opened the block.
struct ReasoningFormat {
  std::string_view name;  // of --reasoning-parser
  enum class Starts { kAlways, kUnlessOff, kIfOn } starts;
  std::string_view switch_name;  // of the chat template's argument that turns reasoning on and off
};

std::span<const ReasoningFormat> reasoning_formats();
const ReasoningFormat* find_reasoning_format(std::string_view name);  // nullptr: unknown

// Does the answer to a prompt start inside reasoning? The end of the prompt says so if it opens or closes a block;
// else the format with the request's chat_template_kwargs (a JSON object, or null).
bool starts_in_reasoning(const ReasoningFormat& format, std::string_view prompt,
                         const nlohmann::ordered_json& template_arguments);

// Splits the reasoning at the start of an answer from the rest. A block ends at </think>, or where a tool call starts:
// models forget the tag. White space before an opening tag and after a closing one belongs to neither side; reasoning
// is otherwise as the model wrote it, so that it can be put back into the history unchanged. Tags later in the answer
// are text.
class ReasoningParser {
 public:
  enum class Start {
    kOpen,     // inside reasoning; a repeated opening tag is dropped
    kPerhaps,  // an opening tag may come first
    kClosed,   // behind reasoning
  };
  struct Split {
    std::string reasoning, rest;
  };

  ReasoningParser(Start start, std::vector<ToolFormat::Start> calls) : start_(start), calls_(std::move(calls)) {
    if (start == Start::kClosed) state_ = State::kRest;
    markers_.push_back(kClose);
    for (const ToolFormat::Start& call : calls_) markers_.push_back(call.first);
  }

  Split push(std::string_view text);
  Split flush();

  // Bytes at the end of the text so far that may be either yet.
  size_t undecided() const { return white_space_.size() + unread_.text().size(); }

  // A call ended the reasoning, so a closing tag may still come, outside calls.
  bool ended_by_call() const { return ended_by_call_; }

  static constexpr std::string_view kOpen = "<think>", kClose = "</think>";

 private:
  enum class State { kStart, kReasoning, kBehind, kRest };

  bool step(Split& out);
  bool start(Split& out);
  bool reasoning(Split& out);
  void add_reasoning(std::string_view text, Split& out);

  const Start start_;
  const std::vector<ToolFormat::Start> calls_;
  std::vector<std::string_view> markers_;

  Unread unread_;
  State state_ = State::kStart;
  std::string white_space_;  // at the start of the answer or the reasoning, not decided yet
  bool has_reasoning_ = false, ended_by_call_ = false, final_ = false;
};

}  // namespace kt
