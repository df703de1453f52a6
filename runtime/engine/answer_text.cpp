#include "runtime/engine/answer_text.h"

#include <algorithm>
#include <utility>

namespace kt {

AnswerText::AnswerText(std::vector<std::string> stop, bool keep_stop) : stop_(std::move(stop)), keep_stop_(keep_stop) {
  std::erase_if(stop_, [](const std::string& s) { return s.empty(); });
}

std::string AnswerText::push(std::string_view token_bytes) { return advance(utf8_.push(token_bytes)); }

std::string AnswerText::flush() {
  std::string text = advance(utf8_.flush());
  return text + std::exchange(held_, "");
}

std::string AnswerText::advance(std::string_view text) {
  if (matched_) return "";
  held_ += text;
  size_t begin = std::string::npos, end = std::string::npos;
  for (const std::string& stop : stop_) {
    const size_t at = held_.find(stop);
    if (at == std::string::npos || std::pair(at + stop.size(), at) >= std::pair(end, begin)) continue;
    begin = at;
    end = at + stop.size();
  }
  if (end != std::string::npos) {
    matched_ = held_.substr(begin, end - begin);
    held_.resize(keep_stop_ ? end : begin);
    return std::exchange(held_, "");
  }
  const size_t certain = held_.size() - held_back();
  std::string out = held_.substr(0, certain);
  held_.erase(0, certain);
  return out;
}

// Length of the longest end of held_ that begins a stop string.
size_t AnswerText::held_back() const {
  size_t longest = 0;
  for (const std::string& stop : stop_) {
    for (size_t length = std::min(stop.size() - 1, held_.size()); length > longest; --length) {
      if (held_.ends_with(std::string_view(stop).substr(0, length))) longest = length;
    }
  }
  return longest;
}

}  // namespace kt
