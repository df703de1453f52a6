#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace kt {

// How characters look in a terminal; bits of a style.
inline constexpr uint8_t kPlain = 0, kBold = 1, kDim = 2, kItalic = 4, kUnderline = 8, kReverse = 16;

// Writes text to a terminal, words whole on a line. What could command the terminal is left out: escape sequences and
// other control characters.
class WordWrap {
 public:
  using Out = std::function<void(std::string_view)>;

  // `attributes`: whether styles are shown.
  WordWrap(int width, bool attributes, Out out) : width_(width), attributes_(attributes), out_(std::move(out)) {}

  bool shows_attributes() const { return attributes_; }
  int width() const { return width_; }
  // UTF-8 without line breaks. A word is written when its end is there.
  void put(std::string_view text, uint8_t style);
  // The same, but only the terminal breaks it.
  void put_verbatim(std::string_view text, uint8_t style);
  // What the lines begin with, of which the one under way becomes more; `width` columns.
  void hang(std::string_view indent, int width) { indent_ = indent, indent_width_ = width; }
  void end_word();
  void end_line();  // also the indent
  void finish();    // the last word, and back to plain text

 private:
  void add(std::string& text, std::string_view character, uint8_t style);
  void write();  // gap and word

  const int width_;
  const bool attributes_;
  Out out_;
  int column_ = 0;
  std::string word_, gap_;  // the word under way, with what sets its style, and the spaces before it
  int word_width_ = 0, gap_width_ = 0;
  std::string gap_codes_;  // of the gap, what sets styles
  std::string indent_;
  int indent_width_ = 0;
  uint8_t style_ = kPlain;  // after all that was put
};

}  // namespace kt
