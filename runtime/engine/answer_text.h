#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/text/tokenizer.h"

namespace kt {

// The text of one answer as it grows: whole characters, cut before the first stop string. What could still become a
// stop string is held back, so the text does not depend on how the bytes were split into tokens: of several stop
// strings the one that is complete first counts, and of those complete at the same byte the longest.
class AnswerText {
 public:
  AnswerText(std::vector<std::string> stop, bool keep_stop);

  // Returns what became certain. Nothing more comes after a match.
  std::string push(std::string_view token_bytes);
  // The rest, when the answer ends here.
  std::string flush();
  // The stop string that was found.
  const std::optional<std::string>& matched() const { return matched_; }

 private:
  std::string advance(std::string_view text);
  size_t held_back() const;

  std::vector<std::string> stop_;
  bool keep_stop_;
  Utf8Stream utf8_;
  std::string held_;
  std::optional<std::string> matched_;
};

}  // namespace kt
