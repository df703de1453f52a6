#pragma once

#include <bit>
#include <cstdint>

namespace kt {

// A 16-bit float of IEEE 754, by its bits.
inline float half_to_float(uint16_t h) {
  const uint32_t sign = (h & 0x8000u) << 16, rest = (h & 0x7fffu) << 13;
  const float magnitude = h % 0x8000u >= 0x7c00u  ? std::bit_cast<float>(0x7f800000u | rest)  // infinite, or no number
                          : h % 0x8000u >= 0x400u ? std::bit_cast<float>(rest + (112u << 23))
                                                  : std::bit_cast<float>(rest + (113u << 23)) - 0x1p-14f;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(magnitude) | sign);
}

}  // namespace kt
