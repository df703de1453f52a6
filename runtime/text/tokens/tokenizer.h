#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace kt {

struct EncodeOptions {
  bool special_as_text = false;  // tokens marked special in the vocabulary are not recognised in the text
  bool add_special_tokens =
      false;  // those around a text that is no rendered chat, as Hugging Face adds them: a BOS, say
};

// Byte-level BPE of a model folder: its tokenizer.json (Hugging Face tokenizers), or where there is none its
// tiktoken.model (Kimi). Immutable; any thread may use it.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  virtual std::vector<int32_t> encode(std::string_view text, EncodeOptions options = {}) const = 0;
  // Bytes of one token: may be a part of a character. Unknown ids (padding rows of the embedding) are empty.
  virtual std::string_view bytes(int32_t id) const = 0;
  virtual bool is_special(int32_t id) const = 0;                            // dropped by skip_special_tokens
  virtual std::optional<int32_t> find(std::string_view content) const = 0;  // id of an added token by its text
  virtual int32_t size() const = 0;                                         // one more than the largest known id
};

// Throws Error(kExitModel) naming the file and the field when the folder has no tokenizer that is understood.
std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& folder);

// Whole text of the ids, U+FFFD for each maximal invalid sub-part.
std::string decode(const Tokenizer& tokenizer, std::span<const int32_t> ids, bool skip_special_tokens);

// The texts that a stream of the ids brings one after the other, and what its end brings.
std::vector<std::string> decode_stream(const Tokenizer& tokenizer, std::span<const int32_t> ids);

// Decoding token by token: emits the longest prefix that is whole characters, U+FFFD at once for what can never
// become valid, and keeps at most three bytes back.
class Utf8Stream {
 public:
  std::string push(std::string_view bytes);
  std::string flush();  // U+FFFD for an incomplete tail

 private:
  std::string tail_;
};

}  // namespace kt
