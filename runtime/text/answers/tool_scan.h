#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>

namespace kt {

// Reading markup that arrives in pieces: what may still become a marker is left unread until that is decided.

// Text that came and was not read yet. Appending and dropping cost time linear in the text, however it is cut.
class Unread {
 public:
  void append(std::string_view text) { text_ += text; }
  std::string_view text() const { return std::string_view(text_).substr(start_); }
  bool empty() const { return start_ == text_.size(); }
  void drop(size_t bytes);

 private:
  std::string text_;
  size_t start_ = 0;
};

// Where the first of some markers stands; all begin with '<'.
struct MarkerPlace {
  static constexpr int kNone = -1;
  size_t at;          // start of the marker; without one, of what may become one: all before it is free of markers
  int which = kNone;  // its number in the list
  bool found() const { return which != kNone; }
};
MarkerPlace find_marker(std::string_view text, std::span<const std::string_view> markers, bool final);

// Is one of `markers`, after white space, what comes next in `text`? `at` is where it then stands.
// White space is looked through for kMaxGap bytes only, so that looking again after each byte stays cheap.
inline constexpr size_t kMaxGap = 256;
struct Ahead {
  enum class Answer { kNo, kYes, kTextEnds } answer;
  size_t at = 0;
  bool yes() const { return answer == Answer::kYes; }
  bool text_ends() const { return answer == Answer::kTextEnds; }
};
Ahead look_ahead(std::string_view text, std::span<const std::string_view> markers);
inline constexpr std::array<std::string_view, 1> kBrace = {"{"};

inline constexpr std::string_view kWhiteSpace = " \t\r\n";
size_t leading_white_space(std::string_view text);
std::string_view trimmed(std::string_view text);

// Follows the brackets and strings of a JSON object or array, of any depth and length. Text that is not JSON is
// followed as far as its brackets and double quotes go.
class JsonNesting {
 public:
  struct Step {
    size_t length;  // bytes that were followed
    enum class End { kText, kClosed, kAngle } end;
  };
  // Stops behind the bracket that closes the value, or at a '<' outside strings, which no JSON has.
  Step follow(std::string_view text);
  bool at_end() const { return depth_ <= 0 && !in_string_; }  // also of a string that stands alone

 private:
  long depth_ = 0;
  bool in_string_ = false, escaped_ = false;
};

}  // namespace kt
