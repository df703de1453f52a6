#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace kt {

// GPT-2's alphabet writes each byte as one printable character: bytes 33-126, 161-172 and 174-255 as the code point of
// the same number, the other 68 in ascending order as U+0100, U+0101, ... (space is "Ġ", newline "Ċ").
class ByteAlphabet {
 public:
  ByteAlphabet();

  // The bytes that a text in the alphabet stands for; nothing when one of its characters is not in the alphabet.
  std::optional<std::string> bytes(std::string_view text) const;
  std::string character(uint8_t byte) const;

 private:
  static constexpr uint32_t kCharacters = 0x100 + 68;
  std::array<int16_t, kCharacters> byte_of_;  // -1: not in the alphabet
  std::array<uint16_t, 256> code_point_of_;
};

}  // namespace kt
