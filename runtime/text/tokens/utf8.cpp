#include "runtime/text/tokens/utf8.h"

#include <cstdint>
#include <span>
#include <string>

#include "runtime/text/tokens/tokenizer.h"

namespace kt {
namespace {

// Well-formed sequences, Unicode table 3-7: the bounds of the second byte depend on the first; later bytes are 80..BF.
struct Lead {
  size_t length;  // 0: no character starts with this byte
  uint8_t second_min, second_max;
};

Lead lead_of(uint8_t byte) {
  if (byte < 0x80) return {1, 0, 0};
  if (byte < 0xC2) return {0, 0, 0};
  if (byte < 0xE0) return {2, 0x80, 0xBF};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};  // shorter forms are not allowed
  if (byte == 0xED) return {3, 0x80, 0x9F};  // surrogates are no characters
  if (byte < 0xF0) return {3, 0x80, 0xBF};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte < 0xF4) return {4, 0x80, 0xBF};
  if (byte == 0xF4) return {4, 0x80, 0x8F};  // up to U+10FFFF
  return {0, 0, 0};
}

}  // namespace

Utf8Part utf8_front(std::string_view bytes) {
  const Lead lead = lead_of(static_cast<uint8_t>(bytes[0]));
  if (lead.length == 0) return {1, Utf8Kind::kBroken};
  for (size_t i = 1; i < lead.length; ++i) {
    if (i == bytes.size()) return {i, Utf8Kind::kIncomplete};
    const uint8_t byte = static_cast<uint8_t>(bytes[i]);
    const uint8_t min = i == 1 ? lead.second_min : 0x80, max = i == 1 ? lead.second_max : 0xBF;
    if (byte < min || byte > max) return {i, Utf8Kind::kBroken};
  }
  return {lead.length, Utf8Kind::kCharacter};
}

namespace {

// The first two bytes of a surrogate are broken already, but Python's incremental decoder, the reference, waits for a
// third byte before it says so.
bool is_half_surrogate(std::string_view bytes) {
  return bytes.size() == 2 && bytes[0] == '\xED' && static_cast<uint8_t>(bytes[1]) >= 0xA0 &&
         static_cast<uint8_t>(bytes[1]) <= 0xBF;
}

}  // namespace

std::string Utf8Stream::push(std::string_view bytes) {
  tail_ += bytes;
  std::string_view rest = tail_;
  std::string out;
  while (!rest.empty()) {
    const Utf8Part part = utf8_front(rest);
    if (part.kind == Utf8Kind::kIncomplete || is_half_surrogate(rest)) break;
    out += part.kind == Utf8Kind::kCharacter ? rest.substr(0, part.length) : kReplacement;
    rest.remove_prefix(part.length);
  }
  tail_.erase(0, tail_.size() - rest.size());
  return out;
}

std::string Utf8Stream::flush() {
  std::string out;
  for (std::string_view rest = tail_; !rest.empty(); rest.remove_prefix(utf8_front(rest).length)) out += kReplacement;
  tail_.clear();
  return out;
}

std::string decode(const Tokenizer& tokenizer, std::span<const int32_t> ids, bool skip_special_tokens) {
  std::string bytes;
  for (const int32_t id : ids)
    if (!skip_special_tokens || !tokenizer.is_special(id)) bytes += tokenizer.bytes(id);
  Utf8Stream stream;
  std::string text = stream.push(bytes);
  return text + stream.flush();
}

std::vector<std::string> decode_stream(const Tokenizer& tokenizer, std::span<const int32_t> ids) {
  Utf8Stream stream;
  std::vector<std::string> texts;
  for (const int32_t id : ids) texts.push_back(stream.push(tokenizer.bytes(id)));
  texts.push_back(stream.flush());
  return texts;
}

}  // namespace kt
