#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace kt {

// A token that is cut out of the text before pre-tokenization; the flags are those of tokenizer.json.
struct AddedToken {
  std::string content;  // not empty
  int32_t id = 0;
  bool special = false;
  bool single_word = false;             // only where no letter, digit or mark touches it
  bool lstrip = false, rstrip = false;  // takes the white space before, after it along
};

// Finds added tokens in a text: leftmost, then longest, none overlapping. Its cost does not grow with their number.
class AddedTokens {
 public:
  // Of tokens with the same content the last one counts.
  explicit AddedTokens(std::vector<AddedToken> tokens);

  // Calls text_between for each stretch (not empty) without a token and token_found for each token, in order.
  // special_as_text: a special token's text is left in the stretch around it.
  void split(std::string_view text, bool special_as_text, const std::function<void(std::string_view)>& text_between,
             const std::function<void(int32_t)>& token_found) const;

 private:
  const AddedToken* longest_at(std::string_view text, size_t position) const;

  std::vector<AddedToken> tokens_;             // sorted by content
  std::array<size_t, 257> first_with_byte_{};  // tokens_[first_with_byte_[b]] is the first not below byte b
};

}  // namespace kt
