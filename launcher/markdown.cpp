#include "launcher/markdown.h"

#include <algorithm>
#include <cctype>

#include "runtime/text/tokens/utf8.h"

namespace kt {
namespace {

constexpr size_t kLongestSpan = 2000;  // bytes that are held back for the end of a span

// Of the run of one character that stands at `at`.
size_t run_length(std::string_view text, size_t at) {
  return std::min(text.find_first_not_of(text[at], at), text.size()) - at;
}

// Where a run of exactly `length` of the first character begins again; npos: nowhere. `after_space` may it follow one.
size_t closing_run(std::string_view text, size_t length, bool after_space) {
  for (size_t at = text.find(text[0], length); at != text.npos;) {
    const size_t run = run_length(text, at);
    if (run == length && (after_space || text[at - 1] != ' ')) return at;
    at = text.find(text[0], at + run);
  }
  return text.npos;
}

// The bytes at the end that are a character not whole.
size_t unfinished_end(std::string_view text) {
  for (size_t back = 1; back <= std::min<size_t>(3, text.size()); ++back)
    if (utf8_front(text.substr(text.size() - back)).kind == Utf8Kind::kIncomplete) return back;
  return 0;
}

bool only_spaces(std::string_view text) { return text.find_first_not_of(' ') == text.npos; }

}  // namespace

void Markdown::write(std::string_view piece) {
  while (!piece.empty()) {
    const size_t end = piece.find('\n');
    line_ += piece.substr(0, end);
    show(end != piece.npos);
    if (end == piece.npos) return;
    end_line();
    piece.remove_prefix(end + 1);
  }
}

void Markdown::finish() {
  show(true);
  wrap_.finish();
}

void Markdown::end_line() {
  wrap_.end_line();
  kind_ = Kind::unknown;
  style_ = base_;
  before_ = ' ';
}

void Markdown::show(bool is_whole) {
  if (kind_ == Kind::unknown && !begin_line(is_whole)) return;
  size_t at = 0;
  if (kind_ == Kind::verbatim) {
    at = line_.size() - (is_whole ? 0 : unfinished_end(line_));
    wrap_.put_verbatim(std::string_view(line_).substr(0, at), style_);
  }
  while (at < line_.size()) {
    const size_t shown = show_front(std::string_view(line_).substr(at), style_, is_whole);
    if (shown == 0) break;
    at += shown;
  }
  line_.erase(0, at);
}

void Markdown::put(std::string_view text, uint8_t style) {
  wrap_.put(text, style);
  if (!text.empty()) before_ = text.back();
}

// ---- what a line is ------------------------------------------------------------------------------------------------

bool Markdown::begin_line(bool is_whole) {
  const size_t at = line_.find_first_not_of(' ');
  if (at == line_.npos) return is_whole && begin_text(0);
  const char c = line_[at];
  if (!fence_.empty() || c == '`' || c == '~') return begin_fence(at, is_whole);
  if (c == '|') return begin_verbatim(style_);  // a table
  const size_t run = run_length(line_, at), after = at + run;
  if (after == line_.size() && !is_whole && std::string_view("#-*+>_").find(c) != std::string_view::npos) return false;
  const bool spaced = after < line_.size() && line_[after] == ' ';
  if (run == 1 && spaced && (c == '-' || c == '*' || c == '+')) return begin_list(at, 1, "•");
  if (std::isdigit(static_cast<unsigned char>(c))) {
    const size_t end = line_.find_first_not_of("0123456789", at);
    if (end == line_.npos || end + 1 == line_.size()) return is_whole && begin_text(at);
    const bool numbered = end - at <= 9 && (line_[end] == '.' || line_[end] == ')') && line_[end + 1] == ' ';
    return numbered ? begin_list(at, end + 1 - at, std::string_view(line_).substr(at, end + 1 - at)) : begin_text(at);
  }
  if (!wrap_.shows_attributes()) return begin_text(at);
  if (c == '#' && run <= 6 && spaced) {
    style_ |= run == 1 ? kBold | kUnderline : kBold;
    line_.erase(0, line_.find_first_not_of(' ', after));
    return begin_text(0);
  }
  if (c == '>') {
    line_.erase(0, at + 1 + (run == 1 && spaced));
    wrap_.put_verbatim("│ ", style_ | kDim);
    wrap_.hang("│ ", 2);
    kind_ = Kind::text;
    return true;
  }
  return run >= 3 && (c == '-' || c == '*' || c == '_') ? begin_rule(after, is_whole) : begin_text(at);
}

bool Markdown::begin_text(size_t indent) {
  wrap_.hang(std::string(indent, ' '), static_cast<int>(indent));
  kind_ = Kind::text;
  return true;
}

bool Markdown::begin_verbatim(uint8_t style) {
  style_ = style;
  kind_ = Kind::verbatim;
  return true;
}

// A line that begins with the characters of a fence, or stands between two.
bool Markdown::begin_fence(size_t at, bool is_whole) {
  const char c = line_[at];
  const size_t least = std::max<size_t>(fence_.size(), 3), run = run_length(line_, at);
  const std::string_view rest = std::string_view(line_).substr(at + run);
  const bool is_short = run < least && (is_whole || !rest.empty()), is_other = !fence_.empty() && c != fence_[0];
  if (!is_short && !is_other) {
    if (!is_whole) return false;
    if (!fence_.empty() && only_spaces(rest)) {
      fence_.clear();
      return begin_verbatim(base_ | kDim);
    }
    if (fence_.empty() && (c == '~' || rest.find('`') == rest.npos)) fence_.assign(run, c);
  }
  return fence_.empty() ? begin_text(at) : begin_verbatim(base_ | kDim);
}

bool Markdown::begin_list(size_t at, size_t marker, std::string_view bullet) {
  const std::string shown(wrap_.shows_attributes() ? bullet : std::string_view(line_).substr(at, marker));
  put(std::string(at, ' ') + shown, style_);
  line_.erase(0, at + marker);
  const size_t indent = at + marker + 1;
  wrap_.hang(std::string(indent, ' '), static_cast<int>(indent));
  kind_ = Kind::text;
  return true;
}

bool Markdown::begin_rule(size_t after, bool is_whole) {
  constexpr int kWidest = 40;
  if (!only_spaces(std::string_view(line_).substr(after))) return begin_text(0);
  if (!is_whole) return false;
  line_.clear();
  for (int i = 0; i < std::min(wrap_.width(), kWidest); ++i) line_ += "─";
  return begin_verbatim(style_ | kDim);
}

// ---- what is in a line ---------------------------------------------------------------------------------------------

// Shows what stands at the front and says how long it is; 0: more has to be seen.
size_t Markdown::show_front(std::string_view text, uint8_t style, bool is_whole) {
  constexpr std::string_view kMarks = "`*\\";
  if (wrap_.shows_attributes()) {
    if (text[0] == '`') return show_code(text, style, is_whole);
    if (text[0] == '*') return show_emphasis(text, style, is_whole);
    if (text[0] == '\\') {
      if (text.size() == 1 && !is_whole) return 0;
      const bool escapes = text.size() > 1 && std::string_view("`*_#").find(text[1]) != std::string_view::npos;
      put(text.substr(escapes, 1), style);
      return 1 + escapes;
    }
  }
  const size_t end = wrap_.shows_attributes() ? text.find_first_of(kMarks) : text.npos;
  std::string_view plain = text.substr(0, end);
  if (end == text.npos && !is_whole) plain.remove_suffix(unfinished_end(plain));
  put(plain, style);
  return plain.size();
}

size_t Markdown::show_code(std::string_view text, uint8_t style, bool is_whole) {
  const size_t run = run_length(text, 0), close = closing_run(text, run, true);
  const size_t end = close == text.npos ? text.size() : close + run;
  if (end == text.size() && !is_whole && text.size() < kLongestSpan) return 0;
  const bool is_span = close != text.npos;
  put(is_span ? text.substr(run, close - run) : text.substr(0, run), is_span ? style | kReverse : style);
  return is_span ? end : run;
}

size_t Markdown::show_emphasis(std::string_view text, uint8_t style, bool is_whole) {
  const size_t run = run_length(text, 0);
  if (run == text.size() && !is_whole) return 0;
  const bool inside_word = std::isalnum(static_cast<unsigned char>(before_));
  const bool opens = run <= 3 && run < text.size() && text[run] != ' ' && (run > 1 || !inside_word);
  const size_t close = opens ? closing_run(text, run, false) : text.npos;
  const size_t end = close == text.npos ? text.size() : close + run;
  if (opens && end == text.size() && !is_whole && text.size() < kLongestSpan) return 0;
  if (close == text.npos) {
    put(text.substr(0, run), style);
    return run;
  }
  const uint8_t inside = style | (run >= 2 ? kBold : kPlain) | (run % 2 ? kItalic : kPlain);
  for (size_t at = run; at < close;) at += show_front(text.substr(at, close - at), inside, true);
  return end;
}

}  // namespace kt
