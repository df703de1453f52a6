#include "runtime/text/tokens/vocabulary.h"

#include <simdjson.h>

#include <stdexcept>
#include <utility>

namespace kt {

void Vocabulary::set(int32_t id, std::string token_bytes) {
  const size_t index = static_cast<size_t>(id);
  if (index >= bytes.size()) {
    bytes.resize(index + 1);
    special.resize(index + 1);
  }
  bytes[index] = std::move(token_bytes);
}

std::vector<int32_t> VocabularyTokenizer::encode(std::string_view text, EncodeOptions options) const {
  constexpr size_t kMaxBytes = size_t{1} << 30;  // ICU counts in 32 bits, and NFC may lengthen the text
  if (text.size() > kMaxBytes) throw std::length_error("a text of more than 1 GiB cannot be encoded");
  std::string valid;
  if (!simdjson::validate_utf8(text)) {
    Utf8Stream stream;
    valid = stream.push(text);
    valid += stream.flush();
    text = valid;
  }
  std::vector<int32_t> ids = encode_valid(text, options);
  if (!options.add_special_tokens) return ids;
  ids.insert(ids.begin(), around_.before.begin(), around_.before.end());
  ids.insert(ids.end(), around_.after.begin(), around_.after.end());
  return ids;
}

std::string_view VocabularyTokenizer::bytes(int32_t id) const {
  return is_known(id) ? std::string_view(vocabulary_.bytes[static_cast<size_t>(id)]) : std::string_view();
}

bool VocabularyTokenizer::is_special(int32_t id) const {
  return is_known(id) && vocabulary_.special[static_cast<size_t>(id)];
}

std::optional<int32_t> VocabularyTokenizer::find(std::string_view content) const {
  const auto entry = vocabulary_.added.find(content);
  return entry == vocabulary_.added.end() ? std::nullopt : std::optional(entry->second);
}

}  // namespace kt
