#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/text/tokens/bpe.h"
#include "runtime/text/tokens/post_processor.h"
#include "runtime/text/tokens/tokenizer.h"

namespace kt {

// The tokens of a model by id.
struct Vocabulary {
  std::vector<std::string> bytes;
  std::vector<bool> special;
  StringMap<int32_t> added;  // by content

  void set(int32_t id, std::string token_bytes);
};

// What tokenizers have in common that hold all their tokens in a table.
class VocabularyTokenizer : public Tokenizer {
 public:
  // Bytes that are not UTF-8 are encoded as U+FFFD. Throws std::length_error above 1 GiB.
  std::vector<int32_t> encode(std::string_view text, EncodeOptions options) const final;
  std::string_view bytes(int32_t id) const final;
  bool is_special(int32_t id) const final;
  std::optional<int32_t> find(std::string_view content) const final;
  int32_t size() const final { return static_cast<int32_t>(vocabulary_.bytes.size()); }

 protected:
  // text: valid UTF-8 of at most 1 GiB.
  virtual std::vector<int32_t> encode_valid(std::string_view text, EncodeOptions options) const = 0;

  Vocabulary vocabulary_;
  SpecialTokens around_;

 private:
  bool is_known(int32_t id) const { return id >= 0 && id < size(); }
};

}  // namespace kt
