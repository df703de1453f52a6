#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

struct pcre2_real_code_8;
struct pcre2_real_match_data_8;
struct pcre2_real_match_context_8;

namespace kt {

struct TextRange {
  size_t begin, end;  // bytes
};

// A pattern of a tokenizer.json, compiled by PCRE2's JIT. Immutable: any thread may search, each with its own Scratch.
//
// The patterns are written for Oniguruma, as Hugging Face tokenizers runs them. Where the same text means something
// else to PCRE2 it is rewritten ([a&&b], \s, ^ and $ at line ends) or, when no known vocabulary needs it, refused.
class Regex {
 public:
  struct Free {
    void operator()(pcre2_real_code_8* code) const;
    void operator()(pcre2_real_match_data_8* data) const;
    void operator()(pcre2_real_match_context_8* context) const;
  };
  using Scratch = std::unique_ptr<pcre2_real_match_data_8, Free>;

  // Throws std::invalid_argument with the reason.
  explicit Regex(std::string_view oniguruma_pattern);
  static Regex literal(std::string_view text);

  static Scratch scratch();
  // First match that begins at or after `from`. text must be valid UTF-8 and `from` the start of a character.
  std::optional<TextRange> find(std::string_view text, size_t from, Scratch& scratch) const;

 private:
  std::unique_ptr<pcre2_real_code_8, Free> code_;
  std::unique_ptr<pcre2_real_match_context_8, Free> context_;
};

// The pattern in PCRE2's words. Throws std::invalid_argument for what has another meaning there and is not rewritten.
std::string pcre_from_oniguruma(std::string_view pattern);

}  // namespace kt
