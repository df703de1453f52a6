#pragma once

#include <string>
#include <string_view>

#include "launcher/word_wrap.h"

namespace kt {

// Shows Markdown while it is written: headings, lists, quotes, code, bold and italic, each within its line. What is not
// sure to be markup is shown as it stands; where the wrap shows no attributes, all of it is.
class Markdown {
 public:
  // `base`: the style of plain text.
  Markdown(WordWrap& wrap, uint8_t base) : wrap_(wrap), base_(base), style_(base) {}

  void write(std::string_view piece);  // cut anywhere
  void finish();                       // shows the rest, without a line's end that is not there

 private:
  enum class Kind : uint8_t { unknown, text, verbatim };

  void show(bool is_whole);
  void end_line();
  // Each looks at the line's begin. False: it has to see more of it.
  bool begin_line(bool is_whole);
  bool begin_fence(size_t at, bool is_whole);
  bool begin_list(size_t at, size_t marker, std::string_view bullet);
  bool begin_rule(size_t at, bool is_whole);
  bool begin_text(size_t indent);
  bool begin_verbatim(uint8_t style);
  size_t show_front(std::string_view text, uint8_t style, bool is_whole);
  size_t show_code(std::string_view text, uint8_t style, bool is_whole);
  size_t show_emphasis(std::string_view text, uint8_t style, bool is_whole);
  void put(std::string_view text, uint8_t style);

  WordWrap& wrap_;
  const uint8_t base_;
  std::string line_;   // of the line under way, what is not shown yet
  std::string fence_;  // of the code block under way: "```"; "": none
  Kind kind_ = Kind::unknown;
  uint8_t style_;      // of the line
  char before_ = ' ';  // last byte that was shown
};

}  // namespace kt
