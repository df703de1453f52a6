#include "runtime/text/tokens/byte_alphabet.h"

namespace kt {

ByteAlphabet::ByteAlphabet() {
  byte_of_.fill(-1);
  uint16_t next = 0x100;
  for (uint16_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    code_point_of_[byte] = printable ? byte : next++;
    byte_of_[code_point_of_[byte]] = static_cast<int16_t>(byte);
  }
}

// All characters of the alphabet take one or two bytes of UTF-8.
std::optional<std::string> ByteAlphabet::bytes(std::string_view text) const {
  std::string bytes;
  for (size_t i = 0; i < text.size(); ++i) {
    uint32_t code_point = static_cast<uint8_t>(text[i]);
    if (code_point >= 0x80) {
      if ((code_point & 0xE0) != 0xC0 || i + 1 == text.size()) return std::nullopt;
      code_point = (code_point & 0x1F) << 6 | (static_cast<uint8_t>(text[++i]) & 0x3F);
    }
    if (code_point >= kCharacters || byte_of_[code_point] < 0) return std::nullopt;
    bytes += static_cast<char>(byte_of_[code_point]);
  }
  return bytes;
}

std::string ByteAlphabet::character(uint8_t byte) const {
  const uint16_t code_point = code_point_of_[byte];
  if (code_point < 0x80) return {static_cast<char>(code_point)};
  return {static_cast<char>(0xC0 | code_point >> 6), static_cast<char>(0x80 | (code_point & 0x3F))};
}

}  // namespace kt
