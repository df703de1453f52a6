#include "runtime/checkpoint/shown.h"

#include <nlohmann/json.hpp>

namespace kt {

std::string shown(std::string_view name) {
  constexpr size_t kLongest = 200;
  const nlohmann::json text = std::string(name.substr(0, kLongest)) + (name.size() > kLongest ? "..." : "");
  return text.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string shown(std::span<const int64_t> shape) {
  std::string text = "(";
  for (const int64_t size : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
  return text + ")";
}

}  // namespace kt
