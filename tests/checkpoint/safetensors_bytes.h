#pragma once

#include <string>
#include <string_view>

namespace kt {

// Header length, header, data: one safetensors file as bytes.
inline std::string safetensors(std::string_view header, std::string_view data) {
  std::string file;
  for (int i = 0; i < 8; ++i) file += static_cast<char>(header.size() >> (8 * i) & 0xff);
  return file.append(header).append(data);
}

}  // namespace kt
