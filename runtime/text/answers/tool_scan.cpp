#include "runtime/text/answers/tool_scan.h"

#include <algorithm>

namespace kt {
namespace {

constexpr size_t kDropAtLeast = 4096;  // bytes read before the string is moved up

}  // namespace

void Unread::drop(size_t bytes) {
  start_ += bytes;
  if (start_ == text_.size()) {
    text_.clear();
    start_ = 0;
  } else if (start_ >= kDropAtLeast && start_ >= text_.size() / 2) {
    text_.erase(0, start_);
    start_ = 0;
  }
}

MarkerPlace find_marker(std::string_view text, std::span<const std::string_view> markers, bool final) {
  for (size_t at = text.find('<'); at != text.npos; at = text.find('<', at + 1)) {
    const std::string_view rest = text.substr(at);
    for (size_t i = 0; i < markers.size(); ++i) {
      if (rest.starts_with(markers[i])) return {at, static_cast<int>(i)};
      if (!final && markers[i].starts_with(rest)) return {at};
    }
  }
  return {text.size()};
}

Ahead look_ahead(std::string_view text, std::span<const std::string_view> markers) {
  using enum Ahead::Answer;
  const size_t at = leading_white_space(text.substr(0, kMaxGap));
  const std::string_view rest = text.substr(at);
  if (rest.empty()) return {kTextEnds};
  for (const std::string_view marker : markers)
    if (rest.starts_with(marker)) return {kYes, at};
  const bool may_become = std::any_of(markers.begin(), markers.end(), [&](auto m) { return m.starts_with(rest); });
  return {may_become ? kTextEnds : kNo};
}

size_t leading_white_space(std::string_view text) { return std::min(text.find_first_not_of(kWhiteSpace), text.size()); }

std::string_view trimmed(std::string_view text) {
  text.remove_prefix(leading_white_space(text));
  return text.substr(0, text.find_last_not_of(kWhiteSpace) + 1);
}

JsonNesting::Step JsonNesting::follow(std::string_view text) {
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string_) {
      if (!escaped_ && c == '"') in_string_ = false;
      escaped_ = !escaped_ && c == '\\';
    } else if (c == '"') {
      in_string_ = true;
    } else if (c == '<') {
      return {i, Step::End::kAngle};
    } else if (c == '{' || c == '[') {
      ++depth_;
    } else if ((c == '}' || c == ']') && --depth_ <= 0) {
      return {i + 1, Step::End::kClosed};
    }
  }
  return {text.size(), Step::End::kText};
}

}  // namespace kt
