#pragma once

#include <cstddef>
#include <string_view>

namespace kt {

enum class Utf8Kind { kCharacter, kBroken, kIncomplete };

// What stands at the front of `bytes` (not empty): one whole character; the longest start of a character that cannot go
// on (a maximal invalid sub-part of Unicode, section 3.9, replaced by one U+FFFD; at least one byte); or a start that
// ends with the bytes (at most three of them) and may go on.
struct Utf8Part {
  size_t length;
  Utf8Kind kind;
};
Utf8Part utf8_front(std::string_view bytes);

inline constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

}  // namespace kt
