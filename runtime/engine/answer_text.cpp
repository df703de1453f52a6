#include "runtime/engine/answer_text.h"

#include <algorithm>
#include <utility>

namespace kt {

AnswerText::AnswerText(StopAutomaton stops, bool keep_stop, const ReasoningParser* reasoning)
    : stops_(std::move(stops)), keep_stop_(keep_stop) {
  if (reasoning) reasoning_.emplace(*reasoning);
}

std::string AnswerText::push(std::string_view token_bytes) { return advance(utf8_.push(token_bytes)); }

std::string AnswerText::flush() {
  std::string text = advance(utf8_.flush());
  if (reasoning_) text += pass_reasoning(reasoning_->flush());
  return text + std::exchange(held_, "");
}

// What the parser has not decided yet stays, in case that it is the answer.
std::string AnswerText::pass_reasoning(const ReasoningParser::Split& split) {
  const std::string& answer = split.rest;  // always the end of the text
  if (answer.empty()) return release(held_.size() - std::min(held_.size(), reasoning_->undecided()));
  std::string out = release(held_.size() - answer.size());
  held_.clear();
  reasoning_.reset();
  return out + advance(answer);
}

std::string AnswerText::release(size_t bytes) {
  std::string out = held_.substr(0, bytes);
  held_.erase(0, bytes);
  return out;
}

std::string AnswerText::advance(std::string_view text) {
  if (matched_) return "";
  if (reasoning_) {
    held_ += text;
    return pass_reasoning(reasoning_->push(text));
  }
  for (const char byte : text) {
    held_ += byte;
    if (auto match = stops_.push(byte)) {
      matched_ = std::move(match->what);
      if (!keep_stop_) held_.resize(held_.size() - match->length);
      return std::exchange(held_, "");
    }
  }
  return release(held_.size() - stops_.open());
}

}  // namespace kt
