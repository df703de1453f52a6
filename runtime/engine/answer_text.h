#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "runtime/text/answers/reasoning_parser.h"
#include "runtime/text/answers/stop_automaton.h"
#include "runtime/text/tokens/tokenizer.h"

namespace kt {

// The text of one answer as it grows: whole characters, cut before what ends it, a stop string or a match of a pattern.
// What could still become one is held back, so the text does not depend on how the bytes were split into tokens: of
// several the one that is complete first counts, and of those complete at the same byte the longest.
class AnswerText {
 public:
  // reasoning: tells what the text begins with, in which nothing ends it; null: there is none
  AnswerText(StopAutomaton stops, bool keep_stop, const ReasoningParser* reasoning = nullptr);

  // Returns what became certain. Nothing more comes after a match.
  std::string push(std::string_view token_bytes);
  // The rest, when the answer ends here.
  std::string flush();
  // The stop string or the pattern that ended the text.
  const std::optional<std::string>& matched() const { return matched_; }

 private:
  std::string advance(std::string_view text);
  std::string pass_reasoning(const ReasoningParser::Split& split);
  std::string release(size_t bytes);

  StopWalk stops_;
  bool keep_stop_;
  std::optional<ReasoningParser> reasoning_;  // until the answer begins
  Utf8Stream utf8_;
  std::string held_;
  std::optional<std::string> matched_;
};

}  // namespace kt
