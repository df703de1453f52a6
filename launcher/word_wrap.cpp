#include "launcher/word_wrap.h"

#include <cwchar>

#include "runtime/text/tokens/utf8.h"

namespace kt {
namespace {

std::string codes_from_to(uint8_t from, uint8_t to) {
  constexpr struct {
    uint8_t style;
    const char* code;
  } kCodes[] = {
      {kBold, "\x1b[1m"}, {kDim, "\x1b[2m"}, {kItalic, "\x1b[3m"}, {kUnderline, "\x1b[4m"}, {kReverse, "\x1b[7m"}};
  std::string codes = from == kPlain ? "" : "\x1b[0m";
  for (const auto& [style, code] : kCodes)
    if (to & style) codes += code;
  return codes;
}

wchar_t code_point(std::string_view character) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(character[i]); };
  if (byte(0) < 0x80) return byte(0);
  uint32_t code = byte(0) & (0xFFu >> (character.size() + 1));
  for (size_t i = 1; i < character.size(); ++i) code = code << 6 | (byte(i) & 0x3Fu);
  return static_cast<wchar_t>(code);
}

// Calls `take(character, columns)` for all that may be shown.
template <class Take>
void each_character(std::string_view text, const Take& take) {
  while (!text.empty()) {
    const Utf8Part part = utf8_front(text);
    const std::string_view character = part.kind == Utf8Kind::kCharacter ? text.substr(0, part.length) : kReplacement;
    text.remove_prefix(part.length);
    const wchar_t code = code_point(character);
    const bool is_control = code < 0x20 || (code >= 0x7F && code < 0xA0);
    const bool turns_around = (code >= 0x202A && code <= 0x202E) || (code >= 0x2066 && code <= 0x2069);
    const int columns = wcwidth(code);  // -1: this system does not know it
    if (code == '\t')
      take("    ", 4);
    else if (!is_control && !turns_around)
      take(character, columns < 0 ? 1 : columns);
  }
}

}  // namespace

void WordWrap::add(std::string& text, std::string_view character, uint8_t style) {
  if (attributes_ && style != style_) {
    const std::string codes = codes_from_to(style_, style);
    text += codes;
    if (&text == &gap_) gap_codes_ += codes;
    style_ = style;
  }
  text += character;
}

void WordWrap::put(std::string_view text, uint8_t style) {
  each_character(text, [&](std::string_view character, int columns) {
    if (character.front() == ' ') {
      end_word();
      add(gap_, character, style);
      gap_width_ += columns;
      return;
    }
    const bool alone = columns == 2;  // of scripts that are broken between characters
    if (alone) end_word();
    add(word_, character, style);
    word_width_ += columns;
    if (alone) end_word();
  });
}

void WordWrap::put_verbatim(std::string_view text, uint8_t style) {
  end_word();
  each_character(text, [&](std::string_view character, int columns) {
    add(word_, character, style);
    word_width_ += columns;
  });
  write();
}

void WordWrap::end_word() {
  if (word_.empty()) return;
  const bool fits = width_ == 0 || column_ + gap_width_ + word_width_ <= width_;
  if (!fits && column_ > indent_width_) {
    gap_ = gap_codes_ + "\n" + indent_;
    gap_width_ = indent_width_;
    column_ = 0;
  }
  write();
  if (width_ > 0 && column_ > width_) column_ = (column_ - 1) % width_ + 1;  // the terminal has broken the word
}

void WordWrap::end_line() {
  end_word();
  gap_ = gap_codes_ + "\n";
  write();
  indent_.clear();
  column_ = indent_width_ = 0;
}

void WordWrap::finish() {
  end_word();
  gap_ = gap_codes_;
  if (style_ != kPlain) gap_ += codes_from_to(style_, kPlain);
  style_ = kPlain;
  write();
}

void WordWrap::write() {
  if (const std::string text = gap_ + word_; !text.empty()) out_(text);
  column_ += gap_width_ + word_width_;
  word_.clear(), gap_.clear(), gap_codes_.clear();
  word_width_ = gap_width_ = 0;
}

}  // namespace kt
