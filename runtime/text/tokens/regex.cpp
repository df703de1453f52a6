#include "runtime/text/tokens/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <fmt/format.h>

#include <cctype>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <utility>
#include <vector>

namespace kt {
namespace {

bool is_alnum(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }

[[noreturn]] void refuse(std::string_view what) {
  throw std::invalid_argument(fmt::format("{} has no supported meaning in a pattern", what));
}

// Rewrites a pattern from left to right; rest_ is what has not been read.
class Translator {
 public:
  explicit Translator(std::string_view pattern) : rest_(pattern) {}

  std::string pattern() {
    std::string out;
    while (!rest_.empty()) {
      if (rest_[0] == '\\')
        out += escape();
      else if (rest_[0] == '[')
        out += char_class();
      else if (rest_.starts_with("(?"))
        out += group();
      else if (rest_[0] == '{')
        out += interval();
      else
        out += take(1);
    }
    return out;
  }

 private:
  std::string_view take(size_t length) {
    const std::string_view taken = rest_.substr(0, length);
    rest_.remove_prefix(taken.size());
    return taken;
  }

  // Oniguruma's \s is Unicode White_Space; PCRE2's has U+180E in addition. \h is a hexadecimal digit there, horizontal
  // space here; \w and \b differ in marks: letters that are not in this list are not let through.
  std::string escape() {
    const std::string_view text = take(2);
    if (text.size() < 2) refuse("a \\ at the end");
    if (text == "\\s") return "\\p{White_Space}";
    if (text == "\\S") return "\\P{White_Space}";
    if (is_alnum(text[1]) && std::string_view("pPdDrntf").find(text[1]) == std::string_view::npos) refuse(text);
    return std::string(text);
  }

  // Options: only i means the same in both (m is "dot matches newline" in Oniguruma).
  std::string group() {
    const size_t end = rest_.find_first_not_of("i-", 2);
    if (end != std::string_view::npos && is_alnum(rest_[end])) refuse(rest_.substr(0, end + 1));
    return std::string(take(2));
  }

  // {1,3}+ is possessive in PCRE2, a repeated repeat in Oniguruma.
  std::string interval() {
    const size_t end = rest_.find_first_not_of("0123456789,", 1);
    if (end == std::string_view::npos || rest_[end] != '}' || !(is_digit(rest_[1]) || rest_[1] == ','))
      return std::string(take(1));
    if (rest_.substr(end + 1).starts_with("+")) refuse(rest_.substr(0, end + 2));
    return std::string(take(end + 1));
  }

  // [a&&[^b]] becomes (?:(?=[^b])[a]). Classes inside classes have a meaning for Oniguruma only around &&.
  std::string char_class() {
    const std::string_view open = rest_.starts_with("[^") ? take(2) : take(1);
    std::vector<std::string> operands;  // each a whole class
    std::string members(rest_.starts_with("]") ? take(1) : "");
    while (true) {
      if (rest_.empty()) refuse("a [ without its ]");
      if (rest_[0] == ']' || rest_.starts_with("&&")) {
        if (!members.empty()) operands.push_back(fmt::format("{}{}]", open, std::exchange(members, "")));
        if (take(rest_[0] == ']' ? 1 : 2) == "]") break;
      } else if (rest_.starts_with("[:")) {
        const size_t end = rest_.find(":]");
        if (end == std::string_view::npos) refuse("[: without :]");
        members += take(end + 2);
      } else if (rest_[0] == '[') {
        if (!members.empty()) refuse("a class inside a class");
        operands.push_back(char_class());
        if (!rest_.starts_with("]") && !rest_.starts_with("&&")) refuse("a class inside a class");
      } else {
        members += rest_[0] == '\\' ? escape() : std::string(take(1));
      }
    }
    if (operands.empty()) refuse("an empty class");
    if (operands.size() == 1) return operands[0];
    if (open == "[^") refuse("[^ with &&");
    std::string out = "(?:";
    for (size_t i = 1; i < operands.size(); ++i) out += fmt::format("(?={})", operands[i]);
    return out + operands[0] + ")";
  }

  std::string_view rest_;
};

std::string pcre_message(int code) {
  char text[256];
  pcre2_get_error_message_8(code, reinterpret_cast<PCRE2_UCHAR8*>(text), sizeof text);
  return text;
}

PCRE2_SPTR8 units(std::string_view text) { return reinterpret_cast<PCRE2_SPTR8>(text.data()); }

}  // namespace

std::string pcre_from_oniguruma(std::string_view pattern) { return Translator(pattern).pattern(); }

void Regex::Free::operator()(pcre2_real_code_8* code) const { pcre2_code_free_8(code); }
void Regex::Free::operator()(pcre2_real_match_data_8* data) const { pcre2_match_data_free_8(data); }
void Regex::Free::operator()(pcre2_real_match_context_8* context) const { pcre2_match_context_free_8(context); }

Regex::Regex(std::string_view oniguruma_pattern) {
  const std::string pattern = pcre_from_oniguruma(oniguruma_pattern);
  int error = 0;
  PCRE2_SIZE offset = 0;
  code_.reset(pcre2_compile_8(units(pattern), pattern.size(), PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, &error, &offset,
                              nullptr));
  if (!code_) throw std::invalid_argument(fmt::format("{} at byte {} of {}", pcre_message(error), offset, pattern));
  pcre2_jit_compile_8(code_.get(), PCRE2_JIT_COMPLETE);  // without JIT the same matches are found, more slowly
  context_.reset(pcre2_match_context_create_8(nullptr));
  // The default limits of work would refuse long runs of spaces; the length of the text is limited elsewhere.
  pcre2_set_match_limit_8(context_.get(), std::numeric_limits<uint32_t>::max());
}

Regex Regex::literal(std::string_view text) {
  std::string pattern;
  for (const char c : text) {
    if (static_cast<unsigned char>(c) < 0x80 && !is_alnum(c)) pattern += '\\';
    pattern += c;
  }
  return Regex(pattern);
}

Regex::Scratch Regex::scratch() { return Scratch(pcre2_match_data_create_8(1, nullptr)); }

std::optional<TextRange> Regex::find(std::string_view text, size_t from, Scratch& scratch) const {
  int result =
      pcre2_match_8(code_.get(), units(text), text.size(), from, PCRE2_NO_UTF_CHECK, scratch.get(), context_.get());
  if (result == PCRE2_ERROR_JIT_STACKLIMIT)  // the interpreter keeps its state on the heap
    result = pcre2_match_8(code_.get(), units(text), text.size(), from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                           scratch.get(), context_.get());
  if (result == PCRE2_ERROR_NOMATCH) return std::nullopt;
  if (result < 0) throw std::runtime_error(fmt::format("the tokenizer's pattern failed: {}", pcre_message(result)));
  const PCRE2_SIZE* range = pcre2_get_ovector_pointer_8(scratch.get());
  return TextRange{range[0], range[1]};
}

}  // namespace kt
