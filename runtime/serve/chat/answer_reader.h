#pragma once

#include <span>
#include <string>
#include <vector>

#include "runtime/engine/request.h"
#include "runtime/serve/chat/messages.h"

namespace kt {

struct ToolCall {
  std::string id, name, arguments;  // arguments: JSON text, as far as it has come
};

// Takes one choice of a chat's answer apart while it comes, and gives its tool calls their ids.
class AnswerReader {
 public:
  explicit AnswerReader(const Chat& chat);

  // What an emission adds, in the order in which the model wrote it; the last emission also brings what was held back.
  OutputPieces read(const Emission& emission);

  // So far.
  std::string reasoning, content;
  std::vector<ToolCall> calls;

  // After the last emission: all but a call that the answer broke off, which nobody can act on.
  std::span<const ToolCall> whole_calls() const { return std::span(calls).first(calls.size() - broken_off_); }

  int completion_tokens = 0;
  int reasoning_tokens = 0;  // of those: up to the last one that showed reasoning
  std::optional<Finish> finish;

  // The model wants its calls answered: there are some, and it ended of its own will.
  bool ends_in_calls() const { return finish && finish->kind == Finish::Kind::stop && !whole_calls().empty(); }

 private:
  void keep(const OutputPieces& pieces);

  OutputParser parser_;
  const ToolFormat* format_;
  int calls_before_;
  bool broken_off_ = false;  // the last call
};

}  // namespace kt
