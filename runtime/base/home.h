#pragma once

#include <string>

namespace kt {

// "~/x" is x in the home.
inline std::string expand_home(std::string path, const std::string& home) {
  if (!home.empty() && (path == "~" || path.starts_with("~/"))) path.replace(0, 1, home);
  return path;
}

}  // namespace kt
