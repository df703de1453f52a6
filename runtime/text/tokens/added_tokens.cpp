#include "runtime/text/tokens/added_tokens.h"

#include <unicode/uchar.h>
#include <unicode/utf8.h>

#include <algorithm>
#include <utility>

namespace kt {
namespace {

uint8_t byte_at(std::string_view text, size_t i) { return static_cast<uint8_t>(text[i]); }

UChar32 char_before(std::string_view text, size_t end) {
  int32_t i = static_cast<int32_t>(end);
  UChar32 c = 0;
  U8_PREV_OR_FFFD(reinterpret_cast<const uint8_t*>(text.data()), 0, i, c);
  return c;
}

UChar32 char_after(std::string_view text, size_t begin) {
  int32_t i = 0;
  const int32_t length = static_cast<int32_t>(std::min<size_t>(text.size() - begin, U8_MAX_LENGTH));
  UChar32 c = 0;
  U8_NEXT_OR_FFFD(reinterpret_cast<const uint8_t*>(text.data() + begin), i, length, c);
  return c;
}

// \w of Unicode Technical Standard 18.
bool is_word(UChar32 c) {
  return u_hasBinaryProperty(c, UCHAR_ALPHABETIC) || u_hasBinaryProperty(c, UCHAR_JOIN_CONTROL) ||
         (U_GET_GC_MASK(c) & (U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK)) != 0;
}

bool touches_a_word(std::string_view text, size_t begin, size_t end) {
  return (begin > 0 && is_word(char_before(text, begin))) || (end < text.size() && is_word(char_after(text, end)));
}

size_t skip_spaces_back(std::string_view text, size_t end, size_t limit) {
  while (end > limit) {
    const UChar32 c = char_before(text, end);
    if (!u_isUWhiteSpace(c)) break;
    end -= static_cast<size_t>(U8_LENGTH(c));
  }
  return end;
}

size_t skip_spaces(std::string_view text, size_t begin) {
  while (begin < text.size()) {
    const UChar32 c = char_after(text, begin);
    if (!u_isUWhiteSpace(c)) break;
    begin += static_cast<size_t>(U8_LENGTH(c));
  }
  return begin;
}

}  // namespace

AddedTokens::AddedTokens(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  std::reverse(tokens_.begin(), tokens_.end());  // so that unique keeps the last
  const auto content_less = [](const AddedToken& a, const AddedToken& b) { return a.content < b.content; };
  std::stable_sort(tokens_.begin(), tokens_.end(), content_less);
  const auto same = [](const AddedToken& a, const AddedToken& b) { return a.content == b.content; };
  tokens_.erase(std::unique(tokens_.begin(), tokens_.end(), same), tokens_.end());
  for (size_t byte = 0; byte < 256; ++byte)
    first_with_byte_[byte + 1] = static_cast<size_t>(std::count_if(
        tokens_.begin(), tokens_.end(), [&](const AddedToken& t) { return byte_at(t.content, 0) <= byte; }));
}

// Walks down the sorted contents as down a trie: all of [low, high) share the bytes of the text read so far, and the
// one that is exactly these bytes comes first.
const AddedToken* AddedTokens::longest_at(std::string_view text, size_t position) const {
  const uint8_t first = byte_at(text, position);
  auto low = tokens_.begin() + static_cast<ptrdiff_t>(first_with_byte_[first]);
  auto high = tokens_.begin() + static_cast<ptrdiff_t>(first_with_byte_[first + 1u]);
  const AddedToken* longest = nullptr;
  for (size_t length = 1; low != high; ++length) {
    if (low->content.size() == length) longest = &*low++;
    if (position + length == text.size()) break;
    const uint8_t byte = byte_at(text, position + length);
    low = std::lower_bound(low, high, byte,
                           [&](const AddedToken& t, uint8_t b) { return byte_at(t.content, length) < b; });
    high = std::upper_bound(low, high, byte,
                            [&](uint8_t b, const AddedToken& t) { return b < byte_at(t.content, length); });
  }
  return longest;
}

// A match that does not count (a special token as text, a token inside a word) is passed over as a whole, as Hugging
// Face tokenizers does: no other token is looked for inside.
void AddedTokens::split(std::string_view text, bool special_as_text,
                        const std::function<void(std::string_view)>& text_between,
                        const std::function<void(int32_t)>& token_found) const {
  size_t done = 0;
  for (size_t position = 0; position < text.size();) {
    const AddedToken* token = longest_at(text, position);
    if (!token) {
      ++position;
      continue;
    }
    size_t begin = position, end = position + token->content.size();
    position = end;
    if (special_as_text && token->special) continue;
    if (token->single_word && touches_a_word(text, begin, end)) continue;
    if (token->lstrip) begin = skip_spaces_back(text, begin, done);
    if (token->rstrip) position = end = skip_spaces(text, end);
    if (begin > done) text_between(text.substr(done, begin - done));
    token_found(token->id);
    done = end;
  }
  if (done < text.size()) text_between(text.substr(done));
}

}  // namespace kt
