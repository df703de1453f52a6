#pragma once

#include <optional>
#include <string>

#include "launcher/markdown.h"
#include "launcher/word_wrap.h"
#include "runtime/client/conversation.h"

namespace kt {

// One answer while it comes: in a terminal as Markdown, reasoning dimmed (or headed, where
// nothing can be dim), before it a sign of what is waited for;
// elsewhere its text, byte for byte.
class AnswerView {
 public:
  explicit AnswerView(bool in_terminal);

  Listener listener();
  void finish(bool is_empty_line_wanted);

 private:
  void show(std::string_view piece, bool is_reasoning);
  void show_waiting(const Waiting& wait);
  void out(std::string_view text);

  const bool in_terminal_;
  bool has_sign_ = false, has_text_ = false, in_reasoning_ = false;
  WordWrap wrap_;
  std::optional<Markdown> markdown_;  // of the reasoning or of the text
};

}  // namespace kt
