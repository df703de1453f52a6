#include "runtime/engine/answer_text.h"

#include <utility>

namespace kt {

AnswerText::AnswerText(StopAutomaton stops, bool keep_stop) : stops_(std::move(stops)), keep_stop_(keep_stop) {}

std::string AnswerText::push(std::string_view token_bytes) { return advance(utf8_.push(token_bytes)); }

std::string AnswerText::flush() {
  std::string text = advance(utf8_.flush());
  return text + std::exchange(held_, "");
}

std::string AnswerText::advance(std::string_view text) {
  if (matched_) return "";
  for (const char byte : text) {
    held_ += byte;
    if (auto match = stops_.push(byte)) {
      matched_ = std::move(match->what);
      if (!keep_stop_) held_.resize(held_.size() - match->length);
      return std::exchange(held_, "");
    }
  }
  const size_t certain = held_.size() - stops_.open();
  std::string out = held_.substr(0, certain);
  held_.erase(0, certain);
  return out;
}

}  // namespace kt
